// Shows the picture behind a point of a scatter plot while the pointer or the focus is on it; a click leads to its card.
const peek = document.getElementById('peek');
const target = link => document.querySelector(link.getAttribute('href') || link.getAttribute('xlink:href'));
for (const link of document.querySelectorAll('svg a')) {
  const card = target(link);
  if (!card) continue;
  const show = event => {
    peek.replaceChildren(card.cloneNode(true));
    peek.firstChild.removeAttribute('id');
    peek.style.display = 'block';
    const box = link.getBoundingClientRect();
    const left = Math.min(box.right + 12, innerWidth - peek.offsetWidth - 8);
    const top = Math.min(Math.max(8, box.top - 40), innerHeight - peek.offsetHeight - 8);
    peek.style.left = `${Math.max(8, left)}px`;
    peek.style.top = `${Math.max(8, top)}px`;
  };
  const hide = () => { peek.style.display = 'none'; };
  link.setAttribute('aria-label', card.querySelector('b').textContent);
  link.addEventListener('mouseenter', show);
  link.addEventListener('focus', show);
  link.addEventListener('mouseleave', hide);
  link.addEventListener('blur', hide);
}
const contents = document.querySelector('nav details');
if (contents && matchMedia('(max-width: 52rem)').matches) contents.open = false;
