// The entry point: fetches the configuration, builds the room and the user interface, and exposes `window.room`.

import { FrameChannels } from "./channel_frames.js";
import { openMedia } from "./media.js";
import { Room } from "./mesh.js";
import { Screen } from "./ui.js";

async function configuration(wishes) {
  const config = { key: null, url: "/v1" };
  try {
    const response = await fetch(new URL("config.json", import.meta.url), { cache: "no-store" });
    if (response.ok) Object.assign(config, await response.json());
  } catch {
    // use the defaults; joining reports the error
  }
  return { key: wishes.get("key") ?? config.key, url: config.url };
}

const wishes = new URLSearchParams(location.search);
const config = await configuration(wishes);
const room = new Room(config, openMedia);
room.frameChannels = new FrameChannels(room);
const screen = new Screen(room, config, wishes);
window.room = room;
document.documentElement.dataset.ready = "true";
if (wishes.get("autojoin") === "1") screen.submit();
