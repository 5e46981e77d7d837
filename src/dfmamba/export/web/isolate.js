// Threads of WebAssembly need a page that is isolated from others, by two headers. Where the server doesn't send
// them, this file does: the page registers it as a service worker, which adds them to all answers, and loads anew.

const HEADERS = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
};

if ('ServiceWorkerGlobalScope' in self) {
  self.addEventListener('install', () => self.skipWaiting());
  self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
  self.addEventListener('fetch', (event) => {
    if (!event.request.url.startsWith(self.registration.scope)) return;
    event.respondWith(fetch(event.request).then((answer) => {
      if (answer.status === 0 || answer.redirected) return answer;
      const headers = new Headers(answer.headers);
      for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
      const { status, statusText } = answer;
      return new Response([204, 304].includes(status) ? null : answer.body, { status, statusText, headers });
    }));
  });
}

/** Makes the page isolated, if the browser can. Resolves to false where the page is about to load anew. */
export async function isolate() {
  const once = 'dfmamba-isolated';
  if (self.crossOriginIsolated || !navigator.serviceWorker || navigator.hardwareConcurrency < 3) return true;
  if (sessionStorage.getItem(once)) return true; // it didn't help
  try {
    await navigator.serviceWorker.register(new URL('isolate.js', import.meta.url), { type: 'module' });
    await navigator.serviceWorker.ready;
  } catch {
    return true; // one thread, then
  }
  sessionStorage.setItem(once, 'true');
  location.reload();
  return false;
}
