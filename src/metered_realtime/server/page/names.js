// A colour and two letters for a name, the same on every screen.

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
