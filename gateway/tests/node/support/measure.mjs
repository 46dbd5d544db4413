// What tests say of time: measured to be told, and compared with bounds only where a document names them.

/** A function that answers the milliseconds since now. */
export function stopwatch() {
  const start = performance.now();
  return () => performance.now() - start;
}
