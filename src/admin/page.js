"use strict";
// Counts down between two looks; the page loads itself anew.
const left = document.getElementById("left");
if (left) {
  const end = performance.now() + Number(left.dataset.seconds) * 1000;
  setInterval(() => {
    const seconds = Math.max(0, Math.round((end - performance.now()) / 1000));
    const minutes = Math.floor(seconds / 60);
    left.textContent = minutes > 0 ? minutes + " min " + (seconds % 60) + " s" : seconds + " s";
  }, 250);
}
