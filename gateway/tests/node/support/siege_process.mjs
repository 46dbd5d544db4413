// One part of a siege in a separate process; see `siege.mjs`. The role is the argument, commands arrive over IPC.

const [role] = process.argv.slice(2);
const { part } = await import(`./siege_${role}.mjs`);

const commands = part();

process.on('message', async ({ id, command, payload }) => {
  if (command === 'end') {
    await commands.end?.();
    process.send({ id, answer: true }, () => process.exit(0));
    return;
  }
  process.send({ id, answer: await commands[command](payload) });
});
process.on('disconnect', () => process.exit(0));
