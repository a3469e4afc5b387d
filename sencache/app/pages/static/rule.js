// SenCache's rule on a recorded run, step by step as sencache/policies/sencache.py decides it; tests hold the two
// against each other. `run` is `Replay` of replay.py.
function replaySenCache(run, tolerance, maxReuses) {
  const total = run.timesteps.length, early = roundHalfEven(run.early_fraction * total), steps = [];
  let reference = null, reuses = 0;
  for (let step = 0; step < total; step++) {
    const limit = step < early ? Math.min(run.early_tolerance, tolerance) : tolerance;
    const record = { step, reference, limit, ...terms(run, step, reference) };
    if (reference === null) record.reason = "first_step";
    else if (reuses >= maxReuses) record.reason = "max_reuses";
    else record.reason = passes(record, limit) ? "within_tolerance" : "above_tolerance";
    record.reuse = record.reason === "within_tolerance";
    reuses = record.reuse ? reuses + 1 : 0;
    if (!record.reuse) reference = step;
    steps.push(record);
  }
  return steps;
}

// At tolerance 0 a table that holds a 0 must not pass a latent that has moved.
const passes = ({ score, dx, dt }, limit) => score <= limit && (limit > 0 || (dx === 0 && dt === 0));

function terms(run, step, reference) {
  if (reference === null) return { dx: 0, dt: 0, x: 0, t: 0, score: 0 };
  const dx = run.latent_rms[step][reference], dt = Math.abs(run.timesteps[step] - run.timesteps[reference]);
  const x = run.alpha_x[reference] * dx, t = run.alpha_t[reference] * dt;
  return { dx, dt, x, t, score: x + t };
}

// As Python rounds.
function roundHalfEven(value) {
  const floor = Math.floor(value), rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2) ? floor + 1 : floor;
}

// `nfe` of `total` steps at even distances, the first among them.
function fixedSteps(total, nfe) {
  const computed = new Set(Array.from({ length: nfe }, (_, index) => Math.floor(index * total / nfe)));
  let reference = 0;
  return Array.from({ length: total }, (_, step) => {
    const reuse = !computed.has(step);
    if (!reuse) reference = step;
    return { step, reuse, reference };
  });
}

// Mean over all steps of the relative error of what is used in place of the true output.
function meanError(run, steps) {
  const errors = steps.map(({ step, reuse, reference }) => reuse ? run.output_change[step][reference] : 0);
  return errors.reduce((sum, error) => sum + error, 0) / steps.length;
}
