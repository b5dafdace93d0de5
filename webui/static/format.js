// Numbers as people read them. Unknown is a dash, never 0.
import { locale, t } from "./i18n.js";

const GiB = 2 ** 30;
export const UNKNOWN = "–";
export const gib = (bytes, digits = 1) => (bytes == null ? UNKNOWN : (bytes / GiB).toFixed(digits));
export const memory = (bytes) =>
  bytes == null ? UNKNOWN : bytes < GiB ? `${Math.round(bytes / 2 ** 20)} MiB` : `${gib(bytes)} GiB`;
export const integer = (value) => (value == null ? UNKNOWN : Math.round(value).toLocaleString(locale));

export function duration(seconds) {
  if (seconds == null) return UNKNOWN;
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

// "loading weights 1/2" for a server that starts.
export function phaseText(status) {
  if (!status.phase) return t("state_starting");
  return [t(`phase_${status.phase}`), status.detail_translations?.[locale] ?? status.detail].filter(Boolean).join(" ");
}

// A short time that was measured or is estimated, so rounded that it does not flicker: "0.4 s", "7 s", "70 s", "3 min".
export function roughly(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  return seconds < 180 ? `${5 * Math.round(seconds / 5)} s` : `${Math.round(seconds / 60)} min`;
}

// "2nd"; in Chinese only the number.
export function ordinal(n) {
  if (locale !== "en") return String(n);
  return n + { one: "st", two: "nd", few: "rd", other: "th" }[new Intl.PluralRules("en", { type: "ordinal" }).select(n)];
}
