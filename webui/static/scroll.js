// Keeps the end of a scroll area in view while its content grows, unless the reader has scrolled up.
export function followEnd(area) {
  let following = true;
  let top = area.scrollTop;
  let height = area.scrollHeight;
  const toEnd = () => area.scrollTo({ top: area.scrollHeight });
  area.addEventListener("scroll", () => {
    const shrunk = area.scrollHeight < height; // then the browser moves the view, not the reader
    if (area.scrollTop < top && !shrunk) following = false;
    if (area.scrollTop > top && area.scrollHeight - area.scrollTop - area.clientHeight < 40) following = true;
    top = area.scrollTop;
    height = area.scrollHeight;
  });
  const resized = new ResizeObserver(() => following && toEnd());
  const watchParts = () => [area, ...area.children].forEach((part) => resized.observe(part));
  new MutationObserver(watchParts).observe(area, { childList: true });
  watchParts();
  return () => {
    following = true;
    toEnd();
  };
}
