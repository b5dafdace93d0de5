// The same words that Gradio shows, for what the script draws.
const messages = window.deckMessages;
// Gradio goes by the browser's first language, and knows these two kinds of Chinese.
export const locale = /^zh-(CN|TW)$/i.test(navigator.language) ? "zh-CN" : "en";

// The text for `key`, with {name}s replaced.
export function t(key, values = {}) {
  const text = messages[locale][key] ?? messages.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

// Static HTML marks its texts with data-t.
export function translateStatic() {
  for (const element of document.querySelectorAll("[data-t]:empty")) element.textContent = t(element.dataset.t);
}
