// The same words that Gradio shows, for what the script draws: chosen by the browser's languages.
const messages = window.deckMessages;
const wanted = navigator.languages?.length ? navigator.languages : [navigator.language || "en"];
const first = wanted.find((language) => /^(zh|en)/i.test(language)) ?? "en";
export const locale = /^zh/i.test(first) ? "zh-CN" : "en";

// The text for `key`, with {name}s replaced.
export function t(key, values = {}) {
  const text = messages[locale][key] ?? messages.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

// Static HTML marks its texts with data-t.
export function translateStatic() {
  for (const element of document.querySelectorAll("[data-t]:empty")) element.textContent = t(element.dataset.t);
}
