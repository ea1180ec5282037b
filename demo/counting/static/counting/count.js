// Asks for the state twice a second and shows it; everything goes in as text, never as HTML.
"use strict";

const page = document.querySelector("[data-state]");
const part = (name) => page.querySelector(`[data-${name}]`);
const known = new Set([...page.querySelectorAll(".broken summary b")].map((name) => name.textContent));

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function grouped(number) {
  return Math.floor(number).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

function status(name, number) {
  const made = element("span", `status ${name.toLowerCase()}`);
  if (number !== undefined) made.append(element("b", "", grouped(number)), " ");
  made.append(name);
  return made;
}

function failure({ name, error, traceback }) {
  const summary = element("summary", "", element("b", "", name), " ", element("span", "", error));
  const made = element("details", "broken", summary, element("pre", "", traceback));
  made.open = true;
  return made;
}

function directory({ name, depth, status: word, done, total, lines }) {
  const bar = element("progress", "");
  bar.max = total || 1;
  bar.value = done;
  bar.ariaLabel = name;
  const made = element(
    "li",
    "",
    element("span", "name", name),
    element("span", "lines", lines === null ? "" : `${grouped(lines)} lines`),
    bar,
    element("span", "of", `${grouped(done)} of ${grouped(total)}`),
    status(word),
  );
  made.style.setProperty("--depth", depth);
  return made;
}

function show(state) {
  part("status").replaceChildren(status(state.status));
  part("done").textContent = grouped(state.done);
  part("total").textContent = grouped(state.total);
  part("percent").textContent = state.percent;
  part("bar").value = state.percent;
  for (const task of state.tasks) {
    const shown = task.counts.map(({ status: name, number }) => status(name, number));
    const none = element("span", "none", "none yet");
    page.querySelector(`[data-task="${task.name}"]`).replaceChildren(...(shown.length ? shown : [none]));
  }
  for (const failed of state.failures.filter(({ name }) => !known.has(name))) {
    known.add(failed.name);
    part("failure-list").append(failure(failed));
    part("failures").hidden = false;
  }
  part("tree").replaceChildren(...state.directories.map(directory));
  part("more").hidden = !state.more;
  part("more-number").textContent = grouped(state.more);
  const log = part("log");
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.replaceChildren(
    ...state.log.map(({ time, level, message }) =>
      element("li", level, element("time", "", time), ` ${message}`),
    ),
  );
  if (follows) log.scrollTop = log.scrollHeight;
}

async function watch() {
  let pause = 500;
  try {
    const answer = await fetch(page.dataset.state, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(answer.status);
    const state = await answer.json();
    show(state);
    if (state.finished) return location.reload();
    page.classList.remove("away");
  } catch {
    page.classList.add("away"); // the server is restarted, perhaps: the task goes on
    pause = 2000;
  }
  setTimeout(watch, pause);
}

part("log").scrollTop = part("log").scrollHeight;
watch();
