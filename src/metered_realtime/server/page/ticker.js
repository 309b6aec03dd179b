// A worker that ticks: timers of a page in the background are slowed down to one per second, those of a worker are not.

let timer = 0;
onmessage = ({ data: interval }) => {
  clearInterval(timer);
  timer = setInterval(() => postMessage(0), interval);
};
