// A long answer is shown in blocks, so that while it grows only its end is drawn anew. The same text gives the same
// blocks at any length that it had on the way.
const LEAST_CHARS = 2000;
const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const MATH = /\$\$|\\\[|\\\]/g;
// What goes on with a list, a quotation or a table, or could be the target of a link, stays with what is above it.
const OWN_BLOCK = /^(?!\* |[ \t\-+>|<[:=_\d\n])/;
const SURE_CHARS = 4; // of a line, to tell what it begins

// Where the first block of `text` after `from` ends; null where that is not known yet.
export function nextCut(text, from = 0) {
  let fence = "";
  let inMath = false;
  let afterBlank = false;
  for (let at = from; at < text.length; ) {
    const end = text.indexOf("\n", at);
    const line = text.slice(at, end < 0 ? text.length : end);
    const known = end >= 0 || line.length >= SURE_CHARS;
    if (afterBlank && !fence && !inMath && at - from >= LEAST_CHARS && line && known && OWN_BLOCK.test(line)) return at;
    const mark = line.match(FENCE)?.[1];
    if (fence) {
      if (mark?.startsWith(fence) && line.trim() === mark) fence = "";
    } else if (mark) fence = mark;
    else for (const [sign] of line.matchAll(MATH)) inMath = sign === "$$" ? !inMath : sign === "\\[";
    afterBlank = !line.trim();
    if (end < 0) return null;
    at = end + 1;
  }
  return null;
}

export function blocksOf(text) {
  const blocks = [];
  let from = 0;
  for (let cut = nextCut(text); cut != null; cut = nextCut(text, cut)) {
    blocks.push(text.slice(from, cut));
    from = cut;
  }
  return [...blocks, text.slice(from)];
}
