// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {CloseData, LeaseState} from "../../../src/interfaces/IComputeEscrow.sol";
import {TypedData} from "../../support/TypedData.sol";
import {World} from "../World.sol";

/// @notice Leases that stop, close, and are refunded.
abstract contract EndActions is World {
    function stop(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        uint256 index = _pick(_set(LeaseState.Active));
        Known storage k = _known[index];
        address sender = [k.buyer, k.provider, k.witness, _anyone()][_draw(4)];
        bool isParty = sender == k.buyer || sender == k.provider || sender == k.witness;
        bool may = isParty && k.seen.state == LeaseState.Active;
        _touch(index, may);
        _do("stop", may, sender, _named(ESCROW.stop, k));
    }

    function stopBySignature(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        uint256 index = _pick(_set(LeaseState.Active));
        Known storage k = _known[index];
        address signer = [k.witness, k.meter, k.witness, _anyone()][_draw(4)];
        bool may = (signer == k.witness || signer == k.meter) && k.seen.state == LeaseState.Active;
        _touch(index, may);
        (bytes32 r, bytes32 vs) = _compact(signer, TypedData.stop(k.buyer, k.provider, k.leaseNo));
        _do(
            "stopBySignature",
            may,
            _anyone(),
            abi.encodeCall(ESCROW.stopBySignature, (k.buyer, k.provider, k.witness, k.leaseNo, _ordersHash(k), r, vs))
        );
    }

    /// @dev Meter and witness together; or one of them alone, or for figures that fell or are ahead of time.
    function close(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        uint256 index = _pick(_openSet());
        Known storage k = _known[index];
        CloseData memory data = CloseData(k.buyer, k.provider, k.leaseNo, _ordersHash(k), uint64(_someMs(k.seen)), 0, 0);
        if (k.seen.hasCounted || _once(16)) {
            data.egressMib = k.counted.egressMib / uint32(1 + _draw(2)) + uint32(_draw(600));
            data.units = k.counted.units + uint32(_draw(200));
        }
        (address meter, address witness) = (k.meter, k.witness);
        uint256 flaw = _draw(12);
        if (flaw == 0) meter = _anyone();
        else if (flaw == 1) witness = _anyone();
        else if (flaw == 2) (meter, witness) = (witness, meter);
        bool may = meter == k.meter && witness == k.witness && _closes(k, data);
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
        _do("refund", may, _anyone(), _named(ESCROW.refund, k));
    }
}
