/* The form of a repeating task: only the fields that its type needs, and what it comes to while it is
   filled in. The server says both what and why; nothing is worked out here. */
"use strict";

(() => {
  const PAUSE = 250; // milliseconds after the last key
  // Of these an error is told whether they were touched or not: no runs are shown because of it.
  const WHEN = ["kind", "crontab", "every", "timezone", "start", "end", "repeats", "next_run"];

  function start() {
    const panel = document.getElementById("cq-preview");
    const form = panel && panel.closest("form");
    if (!form || !form.elements.kind) return;
    const touched = new Set();
    let waiting = 0;
    let asked = 0;

    const row = (name) => form.querySelector(`.form-row.field-${name}`);
    const show = (name, wanted) => {
      // What is wrong is to be seen, also where it does not apply.
      if (row(name)) row(name).hidden = !wanted && !row(name).querySelector(".errorlist");
    };

    function arrange() {
      const kind = form.elements.kind.value;
      show("crontab", kind === "CRONTAB");
      show("every", kind !== "CRONTAB" && kind !== "ONCE");
      show("coalesce_by", form.elements.coalesce?.checked);
      show("catch_up_limit", form.elements.catch_up?.value === "ALL");
    }

    function tell(errors) {
      for (const name of new Set([...touched, ...WHEN])) {
        if (!row(name)) continue;
        row(name).querySelectorAll(".errorlist").forEach((list) => list.remove());
        if (!(name in errors)) continue;
        const list = document.createElement("ul");
        list.className = "errorlist cq-live";
        for (const message of errors[name]) {
          list.appendChild(document.createElement("li")).textContent = message;
        }
        row(name).prepend(list);
      }
      arrange();
    }

    async function ask() {
      const mine = ++asked;
      try {
        const response = await fetch(panel.dataset.url, {
          method: "POST",
          body: new FormData(form),
          credentials: "same-origin",
        });
        if (!response.ok) throw new Error(`${response.status}`);
        const answer = await response.json();
        if (mine !== asked) return; // another was asked meanwhile
        panel.innerHTML = answer.html;
        tell(answer.errors);
      } catch (error) {
        if (mine === asked) panel.textContent = `The server could not be asked: ${error.message}`;
      }
    }

    function changed(event) {
      if (event.target.name) touched.add(event.target.name.replace(/_[01]$/, ""));
      // Whether the arguments fit, and what is hidden of them, is the function's to say.
      if (touched.has("func_name")) ["args", "kwargs"].forEach((name) => touched.add(name));
      arrange();
      clearTimeout(waiting);
      waiting = setTimeout(ask, PAUSE);
    }

    form.addEventListener("input", changed);
    form.addEventListener("change", changed);
    arrange();
  }

  document.addEventListener("DOMContentLoaded", start);
})();
