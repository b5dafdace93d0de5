// What came back when a server ended, and what happens after a crash, in words.
import { gib } from "./format.js";
import { t } from "./i18n.js";

// "Freed 14.21 GiB of GPU memory in 3.1 s, nothing left."
export function receiptText(exit) {
  const { receipt } = exit;
  const s = (receipt?.seconds ?? exit.seconds).toFixed(1);
  if (!receipt) return exit.cause === "stopped" ? t("stopped_in", { s }) : "";
  const known = { gib: gib(receipt.freed_bytes, 2), held: gib(receipt.held_bytes, 2), s };
  if (receipt.left.length) return t("receipt_left", { ...known, left: receipt.left.join("; ") });
  if (receipt.estimated) return t("receipt_estimated", known);
  return t(receipt.where === "gpu" ? "receipt_gpu" : "receipt_ram", known);
}

export function restartText({ state, restart }) {
  if (!restart) return "";
  const { attempt: n, limit: all, at } = restart;
  if (at == null) return t("restart_given_up", { n: all });
  if (state !== "failed") return t("restarted", { n, all });
  return t("restart_in", { s: Math.max(0, Math.ceil(at - Date.now() / 1000)), n, all });
}
