// The conversation as cards, one a question: answer, warnings, steps with their crops and depths, what it cost.

import { boxWords, counted, h, percent, stepTitle } from "./elements.js";
import { isOver } from "./runs.js";
import { imageAddress } from "./server.js";

const gauge = (said, measured) =>
  h(
    "span",
    { class: "gauge", "aria-hidden": "true" },
    measured !== null && h("i", { class: "mark", style: { left: percent(measured) } }),
    said !== null && h("i", { class: "mark said", style: { left: percent(said) } }),
  );

const depthWords = ({ depth, measured_depth: measured }) =>
  [depth !== null && `depth ${depth.toFixed(2)}`, measured !== null && `measured ${measured.toFixed(2)}`].filter(Boolean).join(", ");

class StepCard {
  constructor(number, colour, { choose, peek, back, cropAddress, pictureAddress }) {
    this.number = number;
    this.cropAddress = cropAddress;
    this.pictureAddress = pictureAddress;
    this.title = h("span", { class: "title" });
    this.cost = h("span", { class: "cost" });
    this.head = h(
      "button",
      { type: "button", class: "head", "aria-pressed": "false", onclick: () => choose(number) },
      h("span", { class: "badge" }, String(number)),
      this.title,
      this.cost,
    );
    this.text = h("p", { class: "text", dir: "auto", hidden: true });
    this.boxes = h("ul", { class: "boxes" });
    this.crops = h("div", { class: "crops", hidden: true });
    this.findings = h("ul", { class: "findings", hidden: true });
    this.back = h("button", { type: "button", class: "quiet back", hidden: true, onclick: () => back(number) }, "Look elsewhere from here");
    this.element = h(
      "li",
      { class: "step", style: { "--step": colour }, onmouseenter: () => peek(number), onmouseleave: () => peek(null) },
      this.head,
      this.text,
      this.boxes,
      this.crops,
      this.findings,
      this.back,
    );
  }

  update(step) {
    this.title.textContent = step.declined ? `${stepTitle(step.boxes)}, declined` : stepTitle(step.boxes);
    this.cost.textContent = [step.cost, step.edited && "set by a person"].filter(Boolean).join(" · ");
    this.text.textContent = step.text;
    this.text.hidden = !step.text;
    this.boxes.replaceChildren(
      ...step.boxes.map((box) => {
        const words = depthWords(box);
        const depths = words && h("span", { class: "depths" }, gauge(box.depth, box.measured_depth), words);
        return h("li", {}, h("span", {}, boxWords(box.bbox_2d)), depths);
      }),
    );
    const addresses = step.crops.map((box) => this.cropAddress(box));
    if (addresses.join() !== [...this.crops.children].map((image) => image.getAttribute("src")).join()) {
      this.crops.replaceChildren(
        ...addresses.map((address, index) => h("img", { src: address, alt: `Crop ${index + 1} of step ${this.number}`, loading: "lazy" })),
      );
    }
    this.crops.hidden = addresses.length === 0;
    if (this.findings.children.length !== step.findings.length) {
      this.findings.replaceChildren(...step.findings.map((found) => this.finding(found, step.boxes.length > 1)));
    }
    this.findings.hidden = step.findings.length === 0;
  }

  // What a visual tool found; with `several` boxes it says on which.
  finding({ box, call, text, picture_id: picture }, several) {
    const shown = picture && h("img", { src: this.pictureAddress(picture), alt: `Picture made by ${call}`, loading: "lazy" });
    const place = several && box >= 0 && h("span", { class: "place" }, ` box ${box + 1}`);
    return h("li", { dir: "auto" }, h("code", {}, call), place, text && ` ${text}`, shown);
  }

  // Whether it is the chosen one, and whether a person may go back to it.
  mark(on, open) {
    this.back.hidden = !(on && open);
    this.element.classList.toggle("on", on);
    this.head.setAttribute("aria-pressed", String(on));
  }
}

export class Turn {
  // session: its id; show(run): puts its steps on the stage; choose(run, number), peek(run, number): one of them;
  // back(run, number): goes back to one.
  constructor(run, { session, colours, show, choose, peek, back }) {
    this.run = run;
    this.session = session;
    this.colours = colours;
    this.handlers = { choose: (number) => choose(run, number), peek: (number) => peek(run, number), back: (number) => back(run, number) };
    this.started = performance.now();
    this.cards = [];
    this.answer = h("p", { class: "said", dir: "auto" });
    this.answerBox = h("div", { class: "answer" }, h("span", {}, "Answer"), this.answer);
    this.progress = h("p", { class: "progress" });
    this.weighed = h("p", { class: "weighed", hidden: true });
    this.warnings = h("ul", { class: "warnings", hidden: true });
    this.steps = h("ol", { class: "steps" });
    this.summary = h("summary", {});
    this.details = h("details", { class: "looks", open: true, hidden: true }, this.summary, this.steps);
    this.cost = h("p", { class: "facts" });
    this.actions = h("p", { class: "actions", hidden: true });
    this.showing = h("button", { type: "button", class: "quiet", onclick: () => show(run) }, "Show on the picture");
    this.element = h(
      "li",
      { class: "turn" },
      h("h3", { dir: "auto" }, run.question),
      run.options.length > 0 && h("p", { class: "options", dir: "auto" }, run.options.join(" · ")),
      this.answerBox,
      this.progress,
      this.weighed,
      this.warnings,
      this.details,
      this.cost,
      this.actions,
    );
    this.update();
  }

  update() {
    const { run } = this;
    const over = isOver(run);
    this.element.dataset.state = run.state;
    this.answerBox.hidden = run.state !== "answered";
    this.answer.textContent = run.answer || "none";
    this.progress.hidden = run.state === "answered";
    this.progress.textContent = this.progressWords();
    this.weighed.textContent = run.weighed;
    this.weighed.hidden = !run.weighed;
    this.warnings.replaceChildren(...run.warnings.map((warning) => h("li", { dir: "auto" }, warning)));
    this.warnings.hidden = run.warnings.length === 0;
    while (this.cards.length > run.steps.length) this.cards.pop().element.remove();
    run.steps.forEach((step, index) => {
      if (!this.cards[index]) this.addCard(index);
      this.cards[index].update(step);
    });
    this.details.hidden = run.steps.length === 0;
    this.summary.textContent = counted(run.steps.length, "step");
    if (!over) {
      this.actions.hidden = true;
      this.cost.textContent = "";
    }
    if (over && run.result && this.actions.hidden) this.finish();
  }

  progressWords() {
    const { run } = this;
    switch (run.state) {
      case "running": {
        const seconds = Math.floor((performance.now() - this.started) / 1000);
        return `Looking…${seconds ? ` ${seconds} s` : ""}`;
      }
      case "waiting":
        return "Waiting for your decision";
      case "stopped":
        return "Stopped";
      default:
        return run.problem;
    }
  }

  tick() {
    this.progress.textContent = this.progressWords();
  }

  addCard(index) {
    const card = new StepCard(index + 1, this.colours[index % this.colours.length], {
      ...this.handlers,
      cropAddress: (box) => imageAddress(this.session, this.run.image, "crop", box),
      pictureAddress: (sha256) => imageAddress(this.session, sha256, "rgb"),
    });
    this.cards.push(card);
    this.steps.append(card.element);
  }

  finish() {
    const { result, number } = this.run;
    const { prompt, completion, images } = result.tokens;
    this.cost.textContent = [
      result.mode,
      counted(result.steps.length, "step"),
      counted(images, "image"),
      `${prompt.toLocaleString("en")} tokens in, ${completion.toLocaleString("en")} out`,
      `${result.seconds.toFixed(1)} s`,
    ]
      .map((fact) => fact.replaceAll(" ", "\u00a0"))
      .join(" · ");
    const at = `api/sessions/${this.session}/questions/${number}`;
    this.actions.replaceChildren(
      this.showing,
      h("a", { href: `${at}/report.html`, download: "" }, "Download the report"),
      h("a", { href: `${at}/result.json`, download: "" }, "JSON"),
    );
    this.actions.hidden = false;
  }

  // Whether its steps are on the stage, which of them is chosen, and whether it is the last question.
  mark(current, chosen, newest) {
    const { result, state } = this.run;
    const looked = result?.mode === "tools" || Boolean(result?.adaptive?.went_on);
    const open = newest && state === "answered" && looked;
    this.element.classList.toggle("current", current);
    this.showing.hidden = current;
    this.cards.forEach((card, index) => card.mark(current && chosen === index + 1, open));
  }
}
