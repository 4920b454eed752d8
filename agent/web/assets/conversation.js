// The conversation of this tab: its pictures, its questions, the decisions on boxes, and what the page shows of them.

import { Decision } from "./decision.js";
import { announce, one, stepTitle } from "./elements.js";
import { fold, isOver, newRun } from "./runs.js";
import { call, forgetSession, imageAddress, listen, newSession, rememberedSession, Trouble } from "./server.js";
import { Turn } from "./thread.js";

export const state = { offer: null, session: null, pictures: new Map(), picture: null, turns: [], shown: null, decision: null, hush: null };
export let stage;
export const setStage = (made) => {
  stage = made;
  stage.onchange = mark;
};

const session = (path = "") => `sessions/${state.session}${path}`;
export const current = () => state.turns.at(-1) ?? null; // the newest
export const working = () => current() !== null && !isOver(current().run);

// ── troubles ──

export const tell = (words) => {
  const trouble = one("trouble");
  trouble.textContent = words ?? "";
  trouble.hidden = !words;
};

// Does something, and says in one sentence what went wrong.
export const attempt = async (work) => {
  tell(null);
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof Trouble)) throw error;
    tell(error.message);
    if (error.status === 404 && error.message.startsWith("This conversation")) leave();
    return undefined;
  }
};

// ── pictures ──

const usePicture = (picture, { quiet = false } = {}) => {
  state.picture = picture;
  state.pictures.set(picture.sha256, picture);
  stage.follow();
  showOnStage(null, picture);
  if (!quiet) {
    announce(`${picture.name} is shown.`);
    tell(picture.warnings.join(" ") || null);
    one("question").focus();
  }
};

const take = (path, body) =>
  attempt(async () => {
    if (working()) throw new Trouble("The last question is still being answered: wait for it, or stop it.");
    one("drop").classList.add("busy");
    try {
      if (state.session === null) state.session = await newSession();
      usePicture(await call("POST", session(path), body));
      refresh();
      return true;
    } finally {
      one("drop").classList.remove("busy");
    }
  });

export const takeFile = (file) => {
  if (!file) return;
  if (state.offer?.state !== "ready") {
    tell("The policy is not loaded yet: try again in a moment.");
    return;
  }
  const most = state.offer.limits.bytes;
  if (file.size > most) {
    tell(`The file has ${(file.size / 1e6).toFixed(1)} MB; at most ${most / 1e6} MB are taken: reduce it first.`);
    return;
  }
  take(`/image?name=${encodeURIComponent(file.name ?? "pasted")}`, file);
};

export const takeExample = async ({ file, question }) => {
  if (!(await take("/example", { name: file }))) return;
  one("question").value = question;
  one("question").select();
};

// ── stage ──

const showOnStage = (turn, picture) => {
  state.shown = turn;
  const shown = picture ?? state.pictures.get(turn.run.image);
  one("empty").hidden = true;
  one("looking").hidden = false;
  if (shown) stage.showPicture(imageAddress(state.session, shown.sha256, "rgb"), shown);
  const depth = turn ? turn.run.hasDepth : state.turns.some(({ run }) => run.image === shown.sha256 && run.hasDepth);
  stage.showDepth(depth && shown ? imageAddress(state.session, shown.sha256, "depth") : null);
  stage.setSteps(turn?.run.steps ?? []);
  mark();
};

const mark = () => {
  for (const turn of state.turns) turn.mark(turn === state.shown, stage.chosen, turn === current());
};

const chooseStep = (turn, number) => {
  if (state.decision) return;
  if (state.shown !== turn) showOnStage(turn);
  stage.choose(stage.chosen === number ? 0 : number);
};

// ── questions ──

const addTurn = (run) => {
  const turn = new Turn(run, {
    session: state.session,
    colours: state.offer.look.steps,
    show: () => {
      stage.follow();
      showOnStage(turn);
    },
    choose: (_, number) => chooseStep(turn, number),
    peek: (_, number) => {
      if (state.shown === turn) stage.peek(number);
    },
    back: (_, number) => goBack(turn, number),
  });
  for (const earlier of state.turns) earlier.details.open = false;
  state.turns.push(turn);
  one("thread").prepend(turn.element);
  return turn;
};

export const ask = () =>
  attempt(async () => {
    const question = one("question").value.trim();
    if (state.offer?.state !== "ready") throw new Trouble("The policy is not loaded yet: try again in a moment.");
    if (state.picture === null) throw new Trouble("There is no picture yet: choose one, or begin with an example.");
    if (!question) {
      one("question").focus();
      throw new Trouble("The question is empty: say what you want to know about the picture.");
    }
    const mode = one("mode").value;
    const options = one("options").value.split(";").map((option) => option.trim()).filter(Boolean);
    const confirm = one("confirm").checked && !one("confirm").disabled;
    one("ask").disabled = true;
    try {
      const { number } = await call("POST", session("/questions"), { question, mode, options, confirm });
      const turn = addTurn(newRun({ number, question, mode, options, image: state.picture.sha256 }));
      one("question").value = "";
      one("options").value = "";
      stage.follow();
      showOnStage(turn);
      announce("Asked.");
      follow(turn);
    } finally {
      one("ask").disabled = false;
      refresh();
    }
  });

const follow = (turn) => {
  const { run } = turn;
  state.hush?.();
  state.hush = listen(
    state.session,
    run.number,
    run.heard,
    (event) => {
      const shown = state.shown === turn;
      fold(run, event);
      if (isOver(run) || run.state === "waiting") state.hush?.();
      turn.update();
      say(run, event);
      if (shown && event.kind === "perceived" && run.hasDepth) stage.showDepth(imageAddress(state.session, run.image, "depth"));
      if (shown) stage.setSteps(run.steps, event.kind === "area" ? event.step : event.kind === "result" ? 0 : null);
      if (event.kind === "paused") openDecision(turn);
      if (event.kind === "failed") {
        one("question").value ||= run.question; // to ask again
        tell(run.problem);
      } else if (event.given_up?.kind === "failed") tell(givenUp(event));
      mark();
      refresh();
    },
    () => tell("The connection to the server was lost: load the page again to see what became of the question."),
  );
};

// A result that stands again, since what had gone back from it was given up.
const givenUp = (event) => `${event.given_up.message ?? "Stopped."} The answer from before stands.`;

// What those hear who do not see it.
const say = (run, event) => {
  if (event.kind === "area") announce(`Step ${event.step}: ${stepTitle(event.boxes)}.`);
  else if (event.kind === "text") announce(event.text);
  else if (event.kind === "weighed") announce(event.why);
  else if (event.given_up) announce(givenUp(event));
  else if (event.kind === "result") announce(`Answer: ${run.answer || "none"}. ${run.warnings.join(" ")}`);
  else if (event.kind === "paused") announce(`Step ${event.step} waits for your decision on its boxes.`);
  else if (event.kind === "stopped") announce("Stopped.");
};

export const stop = () =>
  attempt(async () => {
    const turn = current();
    one("stop").disabled = true;
    turn.progress.textContent = "Stopping…";
    const waiting = turn.run.state === "waiting";
    await call("POST", session(`/questions/${turn.run.number}/stop`));
    if (waiting) {
      closeDecision();
      follow(turn);
    }
  });

// ── decisions on boxes ──

const openDecision = (turn) => {
  const { run } = turn;
  const { step } = run.request;
  showOnStage(turn);
  stage.edit(true);
  state.decision = new Decision({
    request: run.request,
    once: run.forked,
    most: state.offer.max_boxes,
    colour: state.offer.look.steps[(step - 1) % state.offer.look.steps.length],
    decide: (decision) => decide(turn, decision),
    changed: (boxes) => {
      const drawn = { boxes: boxes.map((box) => ({ bbox_2d: box })) };
      const steps = run.steps.map((entry, index) => (index === step - 1 ? drawn : entry));
      stage.rgb.shade(boxes);
      stage.depth.draw(steps, step, stage.colours);
    },
  });
  one("approve").focus({ preventScroll: true });
  one("decision").scrollIntoView({ block: "nearest" });
};

// Back to a step of the newest question, to look elsewhere from there.
const goBack = (turn, step) =>
  attempt(async () => {
    if (turn !== current() || working()) throw new Trouble("Only the newest question can be gone back into, once it is answered.");
    await call("POST", session(`/questions/${turn.run.number}/fork`), { step });
    turn.started = performance.now();
    follow(turn);
    refresh();
  });

const closeDecision = () => {
  state.decision?.close();
  state.decision = null;
  stage.edit(false);
};

const decide = async (turn, decision) => {
  const sent = await attempt(async () => {
    await call("POST", session(`/questions/${turn.run.number}/decision`), decision);
    return true;
  });
  if (!sent) {
    state.decision?.busy(false);
    return;
  }
  closeDecision();
  one("stop").disabled = false;
  one("stop").focus({ preventScroll: true });
  follow(turn);
};

// ── the whole conversation ──

export const refresh = () => {
  const busy = working();
  const focused = document.activeElement === one("stop");
  one("ask").hidden = busy;
  one("stop").hidden = !busy;
  one("composer").classList.toggle("working", busy);
  one("notes").hidden = state.turns.length > 0 || !one("notes").children.length;
  if (!busy) one("stop").disabled = false;
  if (!busy && focused) one("question").focus({ preventScroll: true });
  one("other").hidden = busy;
  one("fresh").hidden = state.session === null;
};

// Begins anew; the server forgets the conversation by itself where it could not be told.
const leave = () => {
  state.hush?.();
  closeDecision();
  forgetSession();
  Object.assign(state, { session: null, picture: null, turns: [], shown: null });
  state.pictures.clear();
  one("thread").replaceChildren();
  one("looking").hidden = true;
  one("empty").hidden = false;
  stage.follow();
  stage.setSteps([]);
  stage.showDepth(null);
  refresh();
};

export const fresh = async () => {
  const old = state.session;
  leave();
  tell(null);
  one("choose").focus();
  if (old !== null) await call("DELETE", `sessions/${old}`).catch(() => {});
};

export const restore = async () => {
  const kept = await rememberedSession();
  if (kept === null) return;
  state.session = kept.id;
  for (const picture of kept.pictures) usePicture(picture, { quiet: true });
  for (const { events, ...about } of kept.questions) {
    const run = newRun(about);
    for (const event of events) fold(run, event);
    addTurn(run);
  }
  const turn = current();
  if (turn === null) return;
  const asked = turn.run.image === state.picture?.sha256;
  if (asked) showOnStage(turn);
  if (turn.run.state === "waiting") openDecision(turn);
  else if (turn.run.state === "running") follow(turn);
};
