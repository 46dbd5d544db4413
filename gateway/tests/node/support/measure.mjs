// Time measurements in tests: printed, and compared with bounds only if a document states them.

/** Returns a function that returns the milliseconds since now. */
export function stopwatch() {
  const start = performance.now();
  return () => performance.now() - start;
}
