// Search in pages that are opened from the disk: browsers start no workers there, so a hidden frame does their work.
if (location.protocol === 'file:') {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement('iframe');
      frame.hidden = true;
      frame.srcdoc = '<!doctype html>';
      this.ready = new Promise(resolve => frame.addEventListener('load', () => resolve(frame.contentWindow), {once: true}))
        .then(inner => this.start(inner, String(url)));
      document.body.append(frame);
    }

    async start(inner, url) {
      inner.postMessage = data => this.dispatchEvent(new MessageEvent('message', {data}));
      inner.importScripts = async (...urls) => { for (const each of urls) await load(inner, each); };
      await load(inner, url);
      return inner;
    }

    postMessage(data) {
      this.ready.then(inner => inner.dispatchEvent(new inner.MessageEvent('message', {data})));
    }
  };

  const load = (inner, url) => new Promise((resolve, reject) => {
    const script = inner.document.createElement('script');
    script.addEventListener('load', resolve);
    script.addEventListener('error', reject);
    script.src = url;
    inner.document.body.append(script);
  });
}
