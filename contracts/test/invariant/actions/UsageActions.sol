// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Counted, Lease, LeaseState} from "../../../src/interfaces/IComputeEscrow.sol";
import {TypedData} from "../../support/TypedData.sol";
import {World} from "../World.sol";

/// @notice Usage that witnesses sign, in time and ahead of it, forwards and backwards, and that relayers send, keep back,
/// send again, in any order and under other names.
abstract contract UsageActions is World {
    /// @dev An entry, and what the escrow must make of it. A time entry has no counted figures.
    struct Entry {
        uint256 lease; // index
        address provider; // of the run it is sent in
        uint256 ms;
        uint256 egressMib;
        uint256 units;
        bytes32 r;
        bytes32 vs;
        bool genuine;
    }

    /// @dev What witnesses signed, sent or not.
    Entry[] private _usage;
    Entry[] private _metered;

    /// @dev One voucher: sent now, or kept for a relayer.
    function settle(uint256 seed) external acting(seed) {
        if (_known.length > 0) _sendOne(false);
    }

    function settleMetered(uint256 seed) external acting(seed) {
        if (_known.length > 0) _sendOne(true);
    }

    /// @dev A batch of a relayer: vouchers of any age in any order, twice, under another provider, or changed.
    function relay(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        bool metered = _once(3);
        Entry[] memory batch = new Entry[](1 + _draw(5));
        for (uint256 i = 0; i < batch.length; i++) {
            Entry[] storage signed = metered ? _metered : _usage;
            if (signed.length > 0 && !_once(3)) {
                batch[i] = signed[signed.length - 1 - _draw(_least(signed.length, 16))];
            } else {
                batch[i] = _voucher(metered);
            }
            if (i > 0 && _once(6)) batch[i] = batch[i - 1];
            if (batch[i].genuine && _once(5)) batch[i] = _spoiled(batch[i]); // twice might mend it
        }
        _send(metered ? bytes32("relayMetered") : bytes32("relay"), metered, batch);
    }

    function _sendOne(bool metered) private {
        Entry[] memory batch = new Entry[](1);
        batch[0] = _voucher(metered);
        if (!_once(5)) _send(metered ? bytes32("settleMetered") : bytes32("settle"), metered, batch);
    }

    function _voucher(bool metered) private returns (Entry memory entry) {
        uint256 index = metered ? _pickCounted() : _pick(_openSet());
        Known storage k = _known[index];
        (entry.lease, entry.provider) = (index, k.provider);
        if (_isOpen(k.seen)) _edge(24, k.seen.end + ESCROW.settleWindow());
        entry.ms = _someMs(k.seen);
        if (metered) (entry.egressMib, entry.units) = (_draw(6000), _draw(1200));
        bytes32 structHash = metered
            ? TypedData.metered(
                k.buyer, k.provider, k.leaseNo, uint64(entry.ms), uint32(entry.egressMib), uint32(entry.units)
            )
            : TypedData.usage(k.buyer, k.provider, k.leaseNo, uint64(entry.ms));
        address signer = _once(12) ? _anyone() : k.witness;
        entry.genuine = signer == k.witness;
        (entry.r, entry.vs) = _compact(signer, structHash);
        metered ? _metered.push(entry) : _usage.push(entry);
    }

    function _pickCounted() private returns (uint256) {
        uint256 first = _pick(_openSet());
        for (uint256 i = 0; i < _known.length; i++) {
            uint256 index = (first + i) % _known.length;
            if (_known[index].seen.hasCounted && _isOpen(_known[index].seen)) return index;
        }
        return first;
    }

    function _spoiled(Entry memory other) private returns (Entry memory entry) {
        entry = abi.decode(abi.encode(other), (Entry)); // a copy
        uint256 how = _draw(4);
        entry.genuine = false;
        if (how == 0) entry.provider = entry.provider == providers[0] ? providers[1] : providers[0];
        else if (how == 1) entry.ms += 1;
        else if (how == 2) entry.r = bytes32(uint256(entry.r) ^ 1);
        else entry.vs = bytes32(uint256(entry.vs) ^ (1 << 255));
    }

    /* SENDING */

    function _send(bytes32 action, bool metered, Entry[] memory batch) private {
        uint256 expected = 0;
        Entry[] memory stored = new Entry[](batch.length);
        for (uint256 i = 0; i < batch.length; i++) {
            stored[i] = _foreseen(metered, batch[i], stored, i);
            bool pays = stored[i].genuine;
            _touch(batch[i].lease, pays);
            if (pays) succeeded[action]++;
            else (refused[action], expected) = (refused[action] + 1, expected | (1 << i));
        }
        bytes memory entries = _pack(metered, batch);
        bytes memory data =
            metered ? abi.encodeCall(ESCROW.settleMetered, (entries)) : abi.encodeCall(ESCROW.settle, (entries));
        bytes memory answer = _do("settleCall", true, _anyone(), data);
        _must(action, true, uint8(abi.decode(answer, (bytes))[0]) == expected);
    }

    /// @dev Neighbours of one provider share a run.
    function _pack(bool metered, Entry[] memory batch) private view returns (bytes memory entries) {
        uint256 i = 0;
        while (i < batch.length) {
            uint256 first = i;
            bytes memory run = "";
            for (; i < batch.length && batch[i].provider == batch[first].provider; i++) {
                run = bytes.concat(run, _packOne(metered, batch[i]));
            }
            entries = abi.encodePacked(entries, batch[first].provider, uint16(i - first), run);
        }
    }

    function _packOne(bool metered, Entry memory entry) private view returns (bytes memory) {
        Known storage k = _known[entry.lease];
        bytes memory figures = metered ? abi.encodePacked(uint32(entry.egressMib), uint32(entry.units)) : bytes("");
        return abi.encodePacked(k.buyer, k.leaseNo, uint40(entry.ms), figures, entry.r, entry.vs);
    }

    /* WHAT MUST PAY */

    /// @dev The figures that the entry leaves in store, `genuine` where it raises one of an open lease, in time, over
    /// what those before it (`stored`, up to `i`) raised it to.
    function _foreseen(bool metered, Entry memory entry, Entry[] memory stored, uint256 i)
        private
        view
        returns (Entry memory next)
    {
        Known storage k = _known[entry.lease];
        (next.lease, next.ms) = (entry.lease, k.seen.usedMs);
        (next.egressMib, next.units) = (k.counted.egressMib, k.counted.units);
        for (uint256 j = 0; j < i; j++) {
            if (stored[j].lease != entry.lease) continue;
            (next.ms, next.egressMib, next.units) = (stored[j].ms, stored[j].egressMib, stored[j].units);
        }
        if (!entry.genuine || !_isDue(k.seen, entry.ms) || (metered && !k.seen.hasCounted)) return next;
        uint256 ms = _most(next.ms, _least(entry.ms, _paidSeconds(k.seen) * 1000));
        uint256 egressMib = metered ? _most(next.egressMib, _least(entry.egressMib, k.counted.egressMibCap)) : 0;
        uint256 units = metered ? _most(next.units, _least(entry.units, k.counted.unitsCap)) : 0;
        next.genuine = ms > next.ms || egressMib > next.egressMib || units > next.units;
        next.ms = ms;
        if (metered) (next.egressMib, next.units) = (egressMib, units);
    }

    function _isDue(Lease memory lease, uint256 ms) private view returns (bool) {
        uint256 time = vm.getBlockTimestamp();
        return _isOpen(lease) && time <= lease.end + ESCROW.settleWindow() && ms <= (time - lease.start) * 1000;
    }
}
