"""A page in the browser, on this computer: `pyiqa-rali app`.

Gradio serves it and checks what its functions are asked; the page itself is ours (page.html, page.css, page.js), because Gradio's own
loads scripts and fonts from elsewhere and cannot take a folder that is dropped on it.
"""
