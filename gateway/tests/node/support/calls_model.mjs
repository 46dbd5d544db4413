// A second implementation of the rules for calls between two users: which answers are possible, and how a call changes.
// The tests compare the gateway's answers with it.
//
// A state is `{calls}`: all calls so far, the last of which may be open, as `{caller, devices, phase, ending, action}`.
// `devices` maps each user to their device on the call, and `action` created it. An action is `{what, user, device,
// at}`; `at` is the index of its call.

export const NOTHING = { calls: [] };

const [BUSY, IN_A_CALL] = ['User is busy', 'You are already in a call'];
const [OVER, NOT_RINGING, NOT_ACTIVE, NOT_YOURS] = ['Call is over', 'Call is not ringing', 'Call is not active', 'Only the recipient may do this'];
const ANY = [OVER, NOT_RINGING, NOT_ACTIVE, NOT_YOURS, 'Call not found'];

/** The ringing or active call, if there is one. */
export function openCall({ calls }) {
  const last = calls.at(-1);
  return last && last.phase !== 'over' ? last : undefined;
}

/** The state after the open call has stopped ringing. */
export function lapsed(state) {
  return changed(state, state.calls.length - 1, { phase: 'over', ending: 'call:missed' });
}

/**
 * Every possible combination of answers to `actions` that are sent at once: `[{refusals, next}]`, where `refusals` maps
 * an action to null (success) or to its possible errors. `mayLapse`: the call may have stopped ringing meanwhile. If
 * several explanations fit, those without a lapse come first, because a lapse can still be detected later.
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

/** The possible answers to one action: `[{errors, next}]`. */
function outcomes(state, action) {
  const refused = (...errors) => [{ errors, next: state }];
  const done = (next) => [{ errors: null, next }];
  const { what, user, device, at } = action;
  // Reconnecting in time does not change a call.
  if (what === 'reconnect') return done(state);
  if (what === 'initiate') {
    if (openCall(state)) return refused(BUSY, IN_A_CALL);
    return done({ calls: [...state.calls, { action, caller: user, devices: { [user]: device }, phase: 'ringing', ending: null }] });
  }
  const call = state.calls[at];
  const isCaller = call.caller === user;
  if (call.phase === 'over') {
    // If two errors apply, either is a correct answer.
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
      // It is unspecified whether another device of a party may signal.
      return call.devices[user] === device ? done(state) : [...done(state), ...refused(...ANY)];
    default:
      throw new Error(`there is no action ${what}`);
  }
}

function changed({ calls }, at, changes) {
  return { calls: calls.map((call, index) => (index === at ? { ...call, ...changes } : call)) };
}
