// Preloaded by the tests: the process ends when its input does, as it does when the test ends, however it ends.
process.stdin.resume().on("end", () => process.exit()).on("error", () => process.exit());
