// Shows what runs and estimates the remaining time.

import { seconds } from './options.mjs';

const OVERHEAD_S = 5;

export class Progress {
  #took = new Map();
  #done = 0;

  /** `plan` is the list of all measurements, in their order. */
  constructor(plan, duration) {
    this.plan = plan;
    this.duration = duration;
  }

  /** The line for the next measurement. */
  next() {
    const { round, rounds, scenario, server } = this.plan[this.#done];
    const left = this.plan.slice(this.#done).reduce((sum, one) => sum + this.#expected(one), 0);
    return `round ${round} of ${rounds}, ${this.#done + 1} of ${this.plan.length}, about ${inWords(left)} left: ${scenario.name}, ${server.name}`;
  }

  /** Records how long the last measurement took. */
  took(wallSeconds) {
    const { scenario, server } = this.plan[this.#done];
    this.#took.set(`${scenario.name} ${server.name}`, wallSeconds);
    this.#done += 1;
  }

  #expected({ scenario, server }) {
    const guess = (scenario.duration ? seconds(this.duration ?? scenario.duration) : 0) + (scenario.seconds ?? OVERHEAD_S);
    return this.#took.get(`${scenario.name} ${server.name}`) ?? guess;
  }
}

function inWords(left) {
  return left < 90 ? `${Math.ceil(left)} s` : `${Math.round(left / 60)} min`;
}
