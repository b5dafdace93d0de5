// Puts text into the clipboard, also on a page without HTTPS, where the browser's own way is missing. False where the
// browser allows neither.
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

function copyBySelection(text) {
  const before = document.activeElement;
  const box = Object.assign(document.createElement("textarea"), { value: text, readOnly: true });
  box.style.cssText = "position: fixed; top: 0; opacity: 0";
  // Beside a modal dialog everything is inert: nothing can be selected there.
  ([...document.querySelectorAll("dialog:modal")].at(-1) ?? document.body).append(box);
  box.select();
  const done = document.execCommand("copy");
  box.remove();
  before?.focus?.({ preventScroll: true });
  return done;
}
