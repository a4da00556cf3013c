// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {CloseData, Lease, LeaseKey, LeaseState} from "../../../src/interfaces/IComputeEscrow.sol";
import {TypedData} from "../../support/TypedData.sol";
import {Accounts} from "../Accounts.sol";

/// @notice Leases that stop, free their node, are marked, close, and are refunded.
abstract contract EndActions is Accounts {
    /// @dev By any party, with `again` or without: by the provider and by strangers never with it.
    function stop(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        bool again = _once(2);
        uint256 index = _pick(again && _once(2) ? _set(LeaseState.Stopped) : _set(LeaseState.Active));
        Known storage k = _known[index];
        address sender = [_speaker(k.buyer), k.provider, k.witness, _anyone()][_draw(4)];
        bool speaks = sender == k.witness || _speaksFor(k.buyer, sender) || (sender == k.provider && !again);
        bool may = _stops(index, speaks, again);
        _do(
            again ? bytes32("stopAgain") : bytes32("stop"), may, sender, abi.encodeCall(ESCROW.stop, (_keyOf(k), again))
        );
    }

    /// @dev A stop as it was signed, and is sent.
    struct Signed {
        bool again;
        uint40 deadline;
        bytes32 termsHash;
        address signer;
        address sender;
    }

    /// @dev Signed by buyer, witness or meter, in time or late, by way of anyone.
    function stopBySignature(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        Signed memory s;
        s.again = _once(2);
        uint256 index = _pick(s.again && _once(2) ? _set(LeaseState.Closed) : _set(LeaseState.Active));
        Known storage k = _known[index];
        s.signer = [_speaker(k.buyer), k.witness, k.meter, _anyone()][_draw(4)];
        s.deadline = uint40(vm.getBlockTimestamp() + _draw(600) - (_once(8) ? 600 : 0));
        (s.termsHash, s.sender) = (_once(8) ? k.bidHash : _termsHash(k), _anyone());
        bool may = _stops(index, _isHeard(k, s), s.again);
        bytes memory signature = _sign(s.signer, TypedData.stop(k.buyer, k.provider, k.leaseNo, s.again, s.deadline));
        bytes memory data =
            abi.encodeCall(ESCROW.stopBySignature, (_keyOf(k), s.again, s.deadline, s.termsHash, signature));
        _do(s.again ? bytes32("stopAgainBySignature") : bytes32("stopBySignature"), may, s.sender, data);
    }

    /// @dev Who speaks for the buyer and sends it itself needs no signature.
    function _isHeard(Known storage k, Signed memory s) private view returns (bool) {
        if (vm.getBlockTimestamp() > s.deadline) return false;
        if (s.signer == k.meter && s.termsHash == _termsHash(k) && !s.again) return true;
        return s.signer == k.witness || _speaksFor(k.buyer, s.signer) || _speaksFor(k.buyer, s.sender);
    }

    /// @dev Whether a stop by one who `speaks` for a party must go through. If so, expects what it does.
    function _stops(uint256 index, bool speaks, bool again) private returns (bool may) {
        Known storage k = _known[index];
        may = speaks && (k.seen.state == LeaseState.Active || again);
        if (may && again) k.again = true;
        _touch(index, may);
    }

    /// @dev Leases whose end has passed, and others, one perhaps twice: it changes no end, and the node alone.
    function free(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        LeaseKey[] memory keys = new LeaseKey[](1 + _draw(4));
        uint256[] memory indexes = new uint256[](keys.length);
        for (uint256 i = 0; i < keys.length; i++) {
            indexes[i] = _pick(_set(LeaseState.Active));
            Known storage k = _known[indexes[i]];
            if (k.seen.state == LeaseState.Active) _edge(3, k.seen.end - 1);
            keys[i] = _keyOf(k);
            if (_once(8)) keys[i].provider = stranger;
        }
        uint256 expected = 0;
        for (uint256 i = 0; i < keys.length; i++) {
            bool due = _isOver(indexes[i]) && keys[i].provider != stranger;
            for (uint256 j = 0; j < i; j++) {
                due = due && (indexes[j] != indexes[i] || keys[j].provider == stranger);
            }
            if (due) succeeded["free"]++;
            else (refused["free"], expected) = (refused["free"] + 1, expected | (1 << i));
            _touch(indexes[i], false); // it moves no money
        }
        bytes memory answer = _do("freeCall", true, _anyone(), abi.encodeCall(ESCROW.free, (keys)));
        _must("freeItems", true, uint8(abi.decode(answer, (bytes))[0]) == expected);
    }

    function _isOver(uint256 index) private view returns (bool) {
        Lease storage seen = _known[index].seen;
        return seen.state == LeaseState.Active && seen.end <= vm.getBlockTimestamp();
    }

    /// @dev Meter and witness together; or one of them alone, or for figures that fell or are ahead of time.
    function close(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        uint256 index = _pick(_openSet());
        Known storage k = _known[index];
        CloseData memory data;
        (data.buyer, data.provider, data.leaseNo) = (k.buyer, k.provider, k.leaseNo);
        (data.ms, data.again, data.termsHash) = (uint64(_someMs(k.seen)), _once(2), _termsHash(k));
        if (k.seen.hasCounted || _once(16)) {
            data.egressMib = k.counted.egressMib / uint32(1 + _draw(2)) + uint32(_draw(600));
            data.units = k.counted.units + uint32(_draw(200));
        }
        (address meter, address witness) = (k.meter, k.witness);
        uint256 flaw = _draw(12);
        if (flaw == 0) meter = _anyone();
        else if (flaw == 1) witness = _anyone();
        else if (flaw == 2) (meter, witness) = (witness, meter);
        else if (flaw == 3) data.termsHash = k.askHash;
        bool may = meter == k.meter && witness == k.witness && flaw != 3 && _closes(k, data);
        if (may && data.again) k.again = true;
        _touch(index, may);
        _do("close", may, _anyone(), _closing(data, meter, witness));
    }

    function _closes(Known storage k, CloseData memory data) private view returns (bool) {
        bool timeFits = data.ms >= k.seen.usedMs && data.ms <= (vm.getBlockTimestamp() - k.seen.start) * 1000;
        bool countedFits = k.seen.hasCounted
            ? data.egressMib >= k.counted.egressMib && data.units >= k.counted.units
            : data.egressMib == 0 && data.units == 0;
        return _isOpen(k.seen) && timeFits && countedFits;
    }

    function _closing(CloseData memory data, address meter, address witness) private view returns (bytes memory) {
        (bytes32 meterR, bytes32 meterVs) = _compact(meter, TypedData.close(data));
        (bytes32 witnessR, bytes32 witnessVs) = _compact(witness, TypedData.close(data));
        return abi.encodeCall(ESCROW.close, (data, meterR, meterVs, witnessR, witnessVs));
    }

    /// @dev Whatever happened before, the rest comes back once the window is over, and not sooner.
    function refund(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        uint256 index = _pick(_openSet());
        Known storage k = _known[index];
        uint256 deadline = k.seen.end + ESCROW.settleWindow();
        if (_isOpen(k.seen)) _edge(3, deadline);
        bool may = _isOpen(k.seen) && vm.getBlockTimestamp() > deadline;
        _touch(index, may);
        _do("refund", may, _anyone(), abi.encodeCall(ESCROW.refund, (_keyOf(k))));
    }
}
