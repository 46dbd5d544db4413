// The rules of the calls between two users, written down a second time: what may be answered to whom, and what becomes of
// a call. The tests hold the gateway's answers against them.
//
// A state is `{calls}`, all calls that were made, the last of which may be open: `{caller, devices, phase, ending, action}`,
// where `devices` says which device of each user is on the call, and `action` made it. An action is
// `{what, user, device, at}`; `at` is the index of the call it is about.

export const NOTHING = { calls: [] };

const [BUSY, IN_A_CALL] = ['User is busy', 'You are already in a call'];
const [OVER, NOT_RINGING, NOT_ACTIVE, NOT_YOURS] = ['Call is over', 'Call is not ringing', 'Call is not active', 'Only the recipient may do this'];
const ANY = [OVER, NOT_RINGING, NOT_ACTIVE, NOT_YOURS, 'Call not found'];

/** The call that rings or is talked on, if there is one. */
export function openCall({ calls }) {
  const last = calls.at(-1);
  return last && last.phase !== 'over' ? last : undefined;
}

/** The state after the ring of the open call has run out. */
export function lapsed(state) {
  return changed(state, state.calls.length - 1, { phase: 'over', ending: 'call:missed' });
}

/**
 * Every way in which `actions`, sent at once, may be answered: `[{refusals, next}]`, where `refusals` maps an action to null
 * (it is done) or to the errors that it may get. `mayLapse`: the ring may have run out meanwhile. Where one answer has several
 * explanations, those without a lapse come first: a lapse can still be found out later.
 */
export function possibilities(state, actions, { mayLapse }) {
  const found = [];
  const rings = state.calls.length - 1;
  const explore = (now, left, refusals) => {
    if (left.length === 0) found.push({ refusals, next: now });
    for (const action of left) {
      const others = left.filter((other) => other !== action);
      for (const { errors, next } of outcomes(now, action)) explore(next, others, new Map([...refusals, [action, errors]]));
    }
    if (mayLapse && now.calls[rings]?.phase === 'ringing') explore(lapsed(now), left, refusals);
  };
  explore(state, actions, new Map());
  const missed = ({ next }) => next.calls.filter(({ ending }) => ending === 'call:missed').length;
  return found.sort((a, b) => missed(a) - missed(b));
}

/** The ways in which one action may be answered: `[{errors, next}]`. */
function outcomes(state, action) {
  const refused = (...errors) => [{ errors, next: state }];
  const done = (next) => [{ errors: null, next }];
  const { what, user, device, at } = action;
  // Coming back in time is no news for a call.
  if (what === 'reconnect') return done(state);
  if (what === 'initiate') {
    if (openCall(state)) return refused(BUSY, IN_A_CALL);
    return done({ calls: [...state.calls, { action, caller: user, devices: { [user]: device }, phase: 'ringing', ending: null }] });
  }
  const call = state.calls[at];
  const isCaller = call.caller === user;
  if (call.phase === 'over') {
    // Where two things are wrong, either may be said.
    if (what === 'signal') return refused(OVER, NOT_ACTIVE);
    return isCaller && what !== 'end' ? refused(OVER, NOT_YOURS) : refused(OVER);
  }
  switch (what) {
    case 'accept':
    case 'reject':
      if (isCaller) return call.phase === 'active' ? refused(NOT_YOURS, NOT_RINGING) : refused(NOT_YOURS);
      if (call.phase === 'active') return refused(NOT_RINGING);
      if (what === 'reject') return done(changed(state, at, { phase: 'over', ending: 'call:rejected' }));
      return done(changed(state, at, { phase: 'active', devices: { ...call.devices, [user]: device } }));
    case 'end':
      return done(changed(state, at, { phase: 'over', ending: 'call:ended' }));
    case 'signal':
      if (call.phase === 'ringing') return refused(NOT_ACTIVE);
      // Whether another device of a party may signal is left open.
      return call.devices[user] === device ? done(state) : [...done(state), ...refused(...ANY)];
    default:
      throw new Error(`there is no action ${what}`);
  }
}

function changed({ calls }, at, changes) {
  return { calls: calls.map((call, index) => (index === at ? { ...call, ...changes } : call)) };
}
