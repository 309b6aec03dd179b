// A worker with a timer: browsers limit timers of background pages to one per second, but not those of workers.

let timer = 0;
onmessage = ({ data: interval }) => {
  clearInterval(timer);
  timer = setInterval(() => postMessage(0), interval);
};
