"use strict";
// Looks again every two seconds, and counts down in between. Without scripts the page loads itself anew.
const [header, main] = [document.querySelector("header"), document.querySelector("main")];
// When what is below was told.
let shown = performance.now();
let silent = false;

function tell(state, title, children) {
  header.className = state;
  document.title = title;
  // Only what is new is read out.
  const text = children.map((child) => child.textContent).join("");
  if (header.textContent !== text) header.replaceChildren(...children);
}

function line(name, text) {
  return Object.assign(document.createElement(name), { textContent: text });
}

async function look() {
  try {
    const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error("no page");
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelector("header");
    tell(fresh.className, page.title, [...fresh.children]);
    silent = false;
    // What somebody is about to copy stays.
    if (getSelection().isCollapsed) {
      main.replaceChildren(...page.querySelector("main").children);
      shown = performance.now();
    }
  } catch {
    silent = true;
    const age = Math.round((performance.now() - shown) / 1000);
    const meaning = "The sidecar does not answer this page: has it ended? What is below is " + age + " s old.";
    tell("silent", "no answer - token-valet", [line("h1", "no answer"), line("p", meaning)]);
  }
  setTimeout(look, 2000);
}

function count() {
  const left = document.getElementById("left");
  if (!left || silent) return;
  const seconds = Math.max(0, Math.round(left.dataset.seconds - (performance.now() - shown) / 1000));
  const minutes = Math.floor(seconds / 60);
  left.textContent = minutes > 0 ? minutes + " min " + (seconds % 60) + " s" : seconds + " s";
}

setTimeout(look, 2000);
setInterval(count, 250);
