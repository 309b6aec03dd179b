// Local media: camera and microphone, or a generated picture and tone.

import { hue } from "./names.js";

const WIDTH = 640;
const HEIGHT = 360;
const FPS = 25;
const AUDIO = { echoCancellation: true, noiseSuppression: true };
const VIDEO = { width: { ideal: 960 }, height: { ideal: 540 }, frameRate: { ideal: 30, max: 30 } };
const FAULTS = {
  NotAllowedError: (device) => `The ${device} is not allowed.`,
  NotReadableError: (device) => `The ${device} is in use elsewhere or does not work.`,
};

/**
 * Open the requested media. Missing or refused devices are left out and reported in `missing`; nothing replaces them.
 * @param {{media: "camera"|"canvas", name: string}} wish
 * @returns {Promise<{stream: MediaStream, source: "camera"|"canvas", missing: string|null, stop(): void}>}
 */
export function openMedia({ media, name }) {
  return media === "canvas" ? drawn(name) : camera();
}

async function camera() {
  if (!navigator.mediaDevices?.getUserMedia) {
    return captured(new MediaStream(), "This page gets no camera and no microphone: it needs https, or localhost.");
  }
  try {
    return captured(await navigator.mediaDevices.getUserMedia({ audio: AUDIO, video: VIDEO }), null);
  } catch {
    // perhaps only one of them failed: try each alone
  }
  const video = await alone("camera", { video: VIDEO });
  const audio = await alone("microphone", { audio: AUDIO });
  const stream = new MediaStream([...video.tracks, ...audio.tracks]);
  return captured(stream, `${video.fault}${audio.fault}${consequence(video, audio)}`);
}

function captured(stream, missing) {
  return { stream, source: "camera", missing, stop: () => stopTracks(stream) };
}

async function alone(device, wish) {
  try {
    return { tracks: (await navigator.mediaDevices.getUserMedia(wish)).getTracks(), fault: "" };
  } catch (error) {
    return { tracks: [], fault: `${FAULTS[error.name]?.(device) ?? `There is no ${device}.`} ` };
  }
}

function consequence(video, audio) {
  if (audio.tracks.length) return video.tracks.length ? "" : "Others hear you and do not see you.";
  return video.tracks.length ? "Others see you and do not hear you." : "You can watch, listen and write.";
}

/** Capture a window or screen that the user selects. Rejects if none is selected. */
export async function openScreen() {
  const stream = await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: { ideal: 15 } }, audio: true });
  return { stream, source: "screen", missing: null, stop: () => stopTracks(stream) };
}

function stopTracks(stream) {
  for (const track of stream.getTracks()) track.stop();
}

function drawn(name) {
  const canvas = Object.assign(document.createElement("canvas"), { width: WIDTH, height: HEIGHT });
  const picture = new Picture(canvas, name);
  const ticker = new Worker(new URL("ticker.js", import.meta.url));
  ticker.onmessage = () => picture.draw();
  ticker.postMessage(1000 / FPS);
  picture.draw();
  const stream = canvas.captureStream(FPS);
  const tone = softTone();
  if (tone) stream.addTrack(tone.track);
  const stop = () => {
    ticker.terminate();
    tone?.stop();
    stopTracks(stream);
  };
  return { stream, source: "canvas", missing: null, stop };
}

/** A generated moving picture: easy to recognise, cheap to encode, visibly live. */
class Picture {
  constructor(canvas, name) {
    this.context = canvas.getContext("2d", { alpha: false });
    this.name = name || "Guest";
    this.hue = hue(this.name);
    this.started = performance.now();
  }

  draw() {
    const { context: c } = this;
    const t = (performance.now() - this.started) / 1000;
    const sky = c.createLinearGradient(0, 0, WIDTH, HEIGHT);
    sky.addColorStop(0, `hsl(${this.hue} 55% 26%)`);
    sky.addColorStop(1, `hsl(${(this.hue + 50) % 360} 60% 14%)`);
    c.fillStyle = sky;
    c.fillRect(0, 0, WIDTH, HEIGHT);
    for (let i = 0; i < 3; i++) this.#hill(t, i);
    this.#sun(t);
    this.#text();
  }

  #hill(t, i) {
    const { context: c } = this;
    c.fillStyle = `hsl(${(this.hue + 20 * i) % 360} 60% ${52 - 10 * i}% / 0.35)`;
    c.beginPath();
    c.moveTo(0, HEIGHT);
    for (let x = 0; x <= WIDTH; x += 32) {
      c.lineTo(x, 240 + 34 * i + 24 * Math.sin(x / (90 + 25 * i) + t * (0.9 - 0.2 * i) + i * 2));
    }
    c.lineTo(WIDTH, HEIGHT);
    c.fill();
  }

  #sun(t) {
    const { context: c } = this;
    c.fillStyle = `hsl(${(this.hue + 30) % 360} 90% 76% / 0.9)`;
    c.beginPath();
    c.arc(WIDTH / 2 + 230 * Math.cos(t / 2), 110 + 40 * Math.sin(t), 22, 0, 7);
    c.fill();
  }

  #text() {
    const { context: c } = this;
    c.textAlign = "center";
    c.fillStyle = "#fff";
    c.font = "600 44px system-ui, sans-serif";
    c.fillText(this.name, WIDTH / 2, 180, WIDTH - 60);
    c.font = "400 24px ui-monospace, monospace";
    c.globalAlpha = 0.8;
    c.fillText(new Date().toTimeString().slice(0, 8), WIDTH / 2, 222);
    c.globalAlpha = 1;
  }
}

/** A quiet tone that swells every two seconds; silent until the browser lets the page make sound. */
function softTone() {
  if (typeof AudioContext === "undefined") return null;
  const context = new AudioContext();
  const oscillator = new OscillatorNode(context, { frequency: 330 });
  const gain = new GainNode(context, { gain: 0.03 });
  const swell = new OscillatorNode(context, { frequency: 0.5 });
  const depth = new GainNode(context, { gain: 0.02 });
  const out = context.createMediaStreamDestination();
  swell.connect(depth).connect(gain.gain);
  oscillator.connect(gain).connect(out);
  oscillator.start();
  swell.start();
  const wake = () => context.resume().catch(() => {});
  addEventListener("pointerdown", wake);
  addEventListener("keydown", wake);
  wake();
  const stop = () => {
    removeEventListener("pointerdown", wake);
    removeEventListener("keydown", wake);
    context.close();
  };
  return { track: out.stream.getAudioTracks()[0], stop };
}
