// See ./solc. Only what native solc would print reaches stdout: this package prints notices of its own there.
'use strict';
const fs = require('node:fs');
const path = require('node:path');

const print = process.stdout.write.bind(process.stdout);
process.stdout.write = (chunk) => process.stderr.write(chunk);

const solc = require(path.join(__dirname, '..', '..', 'node_modules', 'solc'));

if (process.argv.includes('--version')) {
  print(`solc, the solidity compiler commandline interface\nVersion: ${solc.version()}\n`);
} else if (process.argv.includes('--standard-json')) {
  const output = solc.compile(fs.readFileSync(0, 'utf8'));
  print(output.slice(output.indexOf('{')) + '\n');
} else {
  process.stderr.write('This compiler answers --version and --standard-json only.\n');
  process.exitCode = 1;
}
