// Parses the facts of a session description that the browser does not expose as objects.

/** The attribute of an answer that names its offer. Other implementations ignore it. */
const REPLY = "a=x-answers:";

/**
 * One m-section. `streams` are those of its `a=msid` lines.
 * @typedef {{mid: string, kind: string, sending: boolean, rejected: boolean, streams: {streamId: string|null, trackId: string|null}[]}} Section
 * @typedef {{ufrag: string, fingerprint: string, session: string, version: string, reply: string, sections: Section[]}} Summary
 */

/** Parse a description. @param {string} sdp @returns {Summary} */
export function summarise(sdp) {
  const summary = { ufrag: "", fingerprint: "", session: "", version: "", reply: "", sections: [] };
  let section = null;
  for (const line of sdp.split(/\r?\n/)) {
    if (line.startsWith("m=")) {
      const [kind, port] = line.slice(2).split(" ");
      section = { mid: "", kind, sending: true, rejected: port === "0", streams: [] };
      summary.sections.push(section);
    } else if (line.startsWith("o=")) {
      [, summary.session = "", summary.version = ""] = line.split(" ");
    } else if (line.startsWith(REPLY)) {
      summary.reply = line.slice(REPLY.length);
    } else if (line.startsWith("a=ice-ufrag:")) {
      summary.ufrag ||= line.slice(12);
    } else if (line.startsWith("a=fingerprint:")) {
      summary.fingerprint ||= line.slice(14).toUpperCase();
    } else if (section && line.startsWith("a=mid:")) {
      section.mid = line.slice(6);
    } else if (section && line.startsWith("a=msid:")) {
      const [stream, track] = line.slice(7).split(" ");
      section.streams.push({ streamId: stream && stream !== "-" ? stream : null, trackId: track || null });
    } else if (section && line === "a=bundle-only") {
      section.rejected = false; // in an offer its port is 0 all the same (RFC 8843, section 6)
    } else if (section && (line === "a=recvonly" || line === "a=inactive")) {
      section.sending = false;
    }
  }
  for (const each of summary.sections) each.sending &&= !each.rejected;
  return summary;
}

/**
 * Whether `next` comes from another connection than `previous`. A changed ufrag alone is an ICE restart when the
 * certificate and the session id stayed the same; anything else means that the remote started over.
 * @param {Summary} previous @param {Summary} next
 */
export function startedOver(previous, next) {
  if (previous.ufrag === next.ufrag && previous.fingerprint === next.fingerprint) return false;
  return previous.fingerprint !== next.fingerprint || previous.session !== next.session;
}

/** Whether both describe the same end of the same connection. @param {Summary} a @param {Summary} b */
export function sameEnd(a, b) {
  return a.ufrag !== "" && a.ufrag === b.ufrag && a.fingerprint === b.fingerprint;
}

/** The answer with the attribute that names its offer. @param {string} answer @param {Summary} offer */
export function replying(answer, offer) {
  return `${answer}${REPLY}${tag(offer)}\r\n`;
}

function tag({ ufrag, version }) {
  return `${ufrag}/${version}`;
}

/**
 * Whether an answer can belong to an offer: it must have the same sections and, if it has the attribute, name the offer.
 * @param {Summary} offer @param {Summary} answer
 */
export function answers(offer, answer) {
  return (!answer.reply || answer.reply === tag(offer)) && sections(offer) === sections(answer);
}

function sections(summary) {
  return summary.sections.map((section) => section.mid).join();
}
