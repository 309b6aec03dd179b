// Names that others give themselves, made fit to be shown; a colour and two letters for each, the same on every screen.

// Controls, also those that turn the direction of the text around them; not the joiners, which some scripts need.
const UNSHOWN = /(?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/gu;
const VISIBLE = /[\p{L}\p{N}\p{P}\p{S}]/u;

/** A name in one line without controls, or null if nothing of it can be seen. @param {unknown} name @param {number} max characters */
export function shown(name, max = 80) {
  if (typeof name !== "string") return null;
  const clean = [...name.slice(0, 4 * max).replace(UNSHOWN, "").trim()].slice(0, max).join("");
  return VISIBLE.test(clean) ? clean : null;
}

/** The track id of metadata that holds the name of its sender. Kind and stream id belong to no track either. */
export const NAME_ID = "x-metered-name";

/** The signal that tells a peer the own name. @param {string} name */
export function nameSignal(name) {
  return { __meteredTrackMeta: { trackId: NAME_ID, metadata: { name }, kind: "name", streamId: NAME_ID } };
}

/** A hue in degrees. @param {string} name */
export function hue(name) {
  let hash = 2166136261; // FNV-1a
  for (const character of name) hash = Math.imul(hash ^ character.codePointAt(0), 16777619);
  return (hash >>> 8) % 360;
}

/** At most two letters. @param {string} name */
export function initials(name) {
  const words = name.split(/\s+/).filter(Boolean);
  const letters = words.length > 1 ? [words[0], words.at(-1)].map((word) => [...word][0]) : [...(words[0] ?? "?")].slice(0, 2);
  return letters.join("").toUpperCase();
}
