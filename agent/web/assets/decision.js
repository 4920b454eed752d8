// A person decides where the policy looks: the boxes it proposes are approved, edited or declined before the crop.

import { Editor } from "./editor.js";
import { h, one, present } from "./elements.js";

const EDGES = ["left", "top", "right", "bottom"];
const LEAST = 0.01;

export class Decision {
  // decide({action, boxes, reason, confirm}) sends it; changed(boxes) draws them elsewhere too; `once`: later steps are
  // not asked about unless the person says so.
  constructor({ request, once, most, colour, decide, changed }) {
    this.proposed = request.boxes.map((box) => [...box.bbox_2d]);
    this.most = most;
    this.decide = decide;
    this.panel = one("decision");
    this.editor = new Editor(one("rgb"), {
      boxes: this.proposed,
      most,
      colour,
      changed: (boxes) => {
        this.sync();
        changed(boxes);
      },
    });
    this.numbers = h("div", { class: "numbers" });
    this.reason = h("input", { type: "text", id: "reason", maxlength: 300, dir: "auto" });
    this.rest = h("input", { type: "checkbox", id: "rest", checked: once });
    this.approve = h("button", { type: "button", class: "primary", id: "approve", onclick: () => this.send("approve") });
    this.adding = h(
      "button",
      { type: "button", onclick: () => this.editor.add([0.35, 0.35, 0.65, 0.65]) },
      "Add a box",
    );
    this.reset = h("button", { type: "button", onclick: () => this.editor.replace(this.proposed) }, "As proposed");
    const parts = [
      h("h3", { id: "decision-title" }, `Step ${request.step}: may the policy look here?`),
      request.problem && h("p", { class: "trouble" }, request.problem),
      h(
        "p",
        { class: "hint", id: "decision-hint" },
        "Drag a box or its corners, or draw a new one. ",
        h("span", { class: "keys" }, "By keyboard: arrows move a box, with Shift they resize it, Delete removes it."),
      ),
      request.tools?.length > 0 && h("p", { class: "hint" }, `It would also use: ${request.tools.join(", ")}.`),
      h("div", { class: "row" }, this.approve, this.adding, this.reset),
      h(
        "div",
        { class: "row" },
        h("label", { for: "reason", class: "unseen" }, "Why not, told to the policy"),
        this.reason,
        h("button", { type: "button", id: "decline", onclick: () => this.send("reject") }, "Decline"),
      ),
      h("label", { class: "check" }, this.rest, " Do not ask again for this question"),
      h("details", {}, h("summary", {}, "Boxes in numbers"), this.numbers),
    ];
    this.panel.replaceChildren(...present(parts));
    this.reason.placeholder = "Why not (told to the policy)";
    this.panel.hidden = false;
    this.sync();
    changed(this.editor.boxes);
  }

  close() {
    this.editor.close();
    this.panel.hidden = true;
    this.panel.replaceChildren();
  }

  get edited() {
    return JSON.stringify(this.editor.boxes) !== JSON.stringify(this.proposed);
  }

  send(action) {
    const edit = action === "approve" && this.edited;
    this.busy(true);
    this.decide({
      action: edit ? "edit" : action,
      boxes: edit ? this.editor.boxes : [],
      reason: action === "reject" ? this.reason.value.trim() : "",
      confirm: !this.rest.checked,
    });
  }

  busy(on) {
    for (const control of this.panel.querySelectorAll("button, input")) control.disabled = on;
    if (!on) this.sync();
  }

  // The buttons and numbers after a change of the boxes.
  sync() {
    const { boxes } = this.editor ?? { boxes: this.proposed };
    this.approve.textContent = this.edited ? "Look here instead" : "Look here";
    this.approve.disabled = boxes.length === 0;
    this.adding.disabled = boxes.length >= this.most;
    this.reset.disabled = !this.edited;
    if (this.numbers.children.length !== boxes.length) this.numbers.replaceChildren(...boxes.map((_, index) => this.row(index)));
    boxes.forEach((box, index) => {
      const inputs = this.numbers.children[index].querySelectorAll("input");
      inputs.forEach((input, edge) => {
        if (input !== document.activeElement) input.value = String(Math.round(box[edge] * 1000) / 10);
      });
    });
  }

  row(index) {
    return h(
      "fieldset",
      {},
      h("legend", {}, `Box ${index + 1}, in percent`),
      ...EDGES.map((edge, position) =>
        h(
          "label",
          {},
          edge,
          h("input", { type: "number", min: 0, max: 100, step: 0.5, onchange: (event) => this.number(event.target, index, position) }),
        ),
      ),
      h("button", { type: "button", class: "quiet", onclick: () => this.editor.remove(index) }, `Remove box ${index + 1}`),
    );
  }

  number(input, index, position) {
    const box = [...this.editor.boxes[index]];
    const given = Number(input.value) / 100;
    if (Number.isFinite(given)) {
      const opposite = box[(position + 2) % 4];
      box[position] = position < 2 ? Math.min(Math.max(given, 0), opposite - LEAST) : Math.max(Math.min(given, 1), opposite + LEAST);
    }
    this.editor.set(index, box);
    input.value = String(Math.round(this.editor.boxes[index][position] * 1000) / 10);
  }
}
