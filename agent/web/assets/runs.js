// A question and what has become of it so far: the events of the server, one after another, folded into one object.

export const newRun = ({ number, question, mode, options = [], image }) => ({
  number,
  question,
  mode,
  options,
  image,
  state: "running",
  steps: [],
  warnings: [],
  weighed: "", // mode adaptive: whether it went on to tools, and why
  answer: "",
  hasDepth: false,
  request: null, // what a person is asked
  forked: false, // whether a person has gone back to one of its steps
  left: [], // the steps that were left then
  result: null,
  problem: "",
  heard: 0,
});

const newStep = (boxes) => ({
  boxes: boxes.map((box) => ({ ...box, measured_depth: box.measured_depth ?? null })),
  text: "",
  crops: [],
  findings: [], // of visual tools: {box (its index), call, text, picture_id}
  cost: "",
  edited: false,
  declined: false,
});

const same = (a, b) => a.every((value, index) => Math.abs(value - b[index]) < 1e-6);
const stepOf = (run, number) => run.steps[number - 1] ?? newStep([]);

const folds = {
  perceived: (run, event) => { run.hasDepth = event.depth !== null; },
  area: (run, event) => {
    run.steps.length = Math.min(run.steps.length, event.step - 1);
    run.steps[event.step - 1] = newStep(event.boxes);
  },
  depth: (run, event) => {
    const box = stepOf(run, event.step).boxes.find((entry) => same(entry.bbox_2d, event.box));
    if (box) box.measured_depth = event.depth;
  },
  crop: (run, event) => { stepOf(run, event.step).crops.push(event.shown); },
  tool: (run, event) => {
    const step = stepOf(run, event.step);
    step.findings.push({ ...event, box: step.boxes.findIndex((entry) => same(entry.bbox_2d, event.box)) });
  },
  weighed: (run, event) => {
    run.weighed = event.why;
    if (event.went_on) run.steps = [];
  },
  text: (run, event) => { stepOf(run, event.step).text = event.text; },
  warning: (run, event) => { run.warnings.push(event.message); },
  answer: (run, event) => { run.answer = event.answer; },
  paused: (run, event) => {
    run.state = "waiting";
    run.request = event;
  },
  back: (run, event) => {
    run.left = run.steps;
    run.steps = run.steps.slice(0, event.step);
    run.steps[event.step - 1] = newStep(stepOf(run, event.step).boxes);
    Object.assign(run, { state: "running", forked: true, result: null, answer: "", warnings: [], weighed: "" });
  },
  decided: (run, event) => {
    const step = run.request && stepOf(run, run.request.step);
    if (step && event.action === "edit") {
      step.boxes = event.boxes.map((box) => ({ bbox_2d: box, depth: null, measured_depth: null }));
      step.edited = true;
    }
    if (step && event.action === "reject") step.declined = true;
    run.state = "running";
    run.request = null;
  },
  // given_up: how the run ended that had gone back from this answer; the answer stands again.
  result: (run, event) => {
    run.state = "answered";
    run.request = null;
    const before = event.given_up ? run.left : run.steps;
    run.result = event.result;
    run.answer = event.result.answer;
    run.warnings = event.result.warnings;
    run.weighed = event.result.adaptive?.why ?? "";
    run.steps = event.result.steps.map((step, index) => ({
      ...newStep(step.boxes),
      text: step.text,
      crops: step.crops,
      findings: step.findings ?? [],
      cost: step.cost,
      edited: step.edited,
      declined: Boolean(before[index]?.declined) && !step.edited,
    }));
  },
  stopped: (run) => { run.state = "stopped"; run.request = null; },
  failed: (run, event) => { run.state = "failed"; run.problem = event.message; run.request = null; },
};

export const fold = (run, event) => {
  run.heard += 1;
  folds[event.kind]?.(run, event);
  for (let index = 0; index < run.steps.length; index += 1) run.steps[index] ??= newStep([]);
};

export const isOver = (run) => ["answered", "stopped", "failed"].includes(run.state);
