// Signs the typed data on stdin, {"key", "document"}, as a wallet built on viem does; prints the signature.
import { readFileSync } from 'node:fs';
import { privateKeyToAccount } from 'viem/accounts';

const { key, document } = JSON.parse(readFileSync(0, 'utf8'));

// JSON has integers as decimal strings; viem wants what they are.
function valueOf(type, value) {
  if (type.endsWith(']')) return value.map((one) => valueOf(type.slice(0, type.lastIndexOf('[')), one));
  const members = document.types[type];
  if (members) return Object.fromEntries(members.map(({ name, type: of }) => [name, valueOf(of, value[name])]));
  return /^u?int/.test(type) ? BigInt(value) : value;
}

const { types, primaryType, domain } = document;
const message = valueOf(primaryType, document.message);
process.stdout.write(await privateKeyToAccount(key).signTypedData({ domain, types, primaryType, message }));
