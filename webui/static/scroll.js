// Keeps the end of a scroll area in view while its content grows, unless the reader has scrolled up. `onFollowing` is
// called with whether it does so, whenever that changes. Returns what brings the end into view.
const NEAR_END_PX = 40;
const HAND_MS = 1000; // a wheel's or key's scrolling is over by then

export function followEnd(area, onFollowing = () => {}) {
  let following = true;
  let top = area.scrollTop;
  let handAt = -HAND_MS; // content that moves about makes the browser scroll too: that is not the reader
  let isHeld = false;
  const toEnd = () => area.scrollTo({ top: area.scrollHeight });
  const setFollowing = (now) => {
    if (now !== following) onFollowing((following = now));
  };
  const hand = () => (handAt = performance.now());
  for (const kind of ["wheel", "touchmove", "keydown"]) area.addEventListener(kind, hand, { passive: true });
  area.addEventListener("pointerdown", () => (isHeld = true)); // the scroll bar
  for (const kind of ["pointerup", "pointercancel"]) addEventListener(kind, () => (isHeld = false)); // a finger that scrolls: cancel
  area.addEventListener("scroll", () => {
    const isReader = isHeld || performance.now() - handAt < HAND_MS;
    if (area.scrollTop < top && isReader) setFollowing(false);
    if (area.scrollTop > top && area.scrollHeight - area.scrollTop - area.clientHeight < NEAR_END_PX) setFollowing(true);
    top = area.scrollTop;
  });
  const resized = new ResizeObserver(() => {
    if (following) toEnd();
    else if (area.scrollHeight <= area.clientHeight) setFollowing(true); // all of it is in view
  });
  const watchParts = () => [area, ...area.children].forEach((part) => resized.observe(part));
  new MutationObserver(watchParts).observe(area, { childList: true });
  watchParts();
  return () => {
    setFollowing(true);
    toEnd();
  };
}
