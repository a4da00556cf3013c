// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {CloseData, IEscrowCore, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {LeaseSlot} from "../../src/libraries/LeaseSlot.sol";
import {Orders} from "../../src/libraries/Orders.sol";
import {TypedData} from "../support/TypedData.sol";
import {EscrowProofs} from "./EscrowProofs.sol";

/// @notice close, with any figures under any two signatures.
/// @dev As in `SettlingProofs` meter and witness are whoever the signatures recover to: the number of the lease, which is
/// free, is assumed to be the meter's.
/// @custom:halmos --storage-layout generic
contract ClosingProofs is EscrowProofs {
    uint256 private constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    struct Signed {
        bytes16 leaseNo;
        uint64 ms;
        bool again;
        bytes32[2] meter; // r, vs
        bytes32[2] witness;
    }

    function _data(Signed calldata signed) private view returns (CloseData memory data) {
        (data.buyer, data.provider, data.leaseNo) = (BUYER, PROVIDER, signed.leaseNo);
        (data.ms, data.again, data.termsHash) = (signed.ms, signed.again, termsHash);
    }

    function _signer(CloseData memory data, bytes32[2] calldata signature) private view returns (address) {
        uint256 s = uint256(signature[1]) & (type(uint256).max >> 1);
        vm.assume(s <= HALF_ORDER);
        bytes32 digest = TypedData.digest(escrow.domainSeparator(), TypedData.close(data));
        return ecrecover(digest, uint8(27 + (uint256(signature[1]) >> 255)), signature[0], bytes32(s));
    }

    /// @dev Puts the lease in under the number and witness that the signatures are for.
    function _beginFor(Signed calldata signed, LeaseSlot slot, uint40 time) private {
        vm.assume(slot.paidSeconds() <= Orders.MAX_PAID_SECONDS); // or it neither opens nor is topped up
        CloseData memory data = _data(signed);
        address meter = _signer(data, signed.meter);
        vm.assume(meter != address(0));
        vm.assume(bytes16(keccak256(abi.encode(termsHash, meter))) == signed.leaseNo);
        key = _keyOf(_signer(data, signed.witness), signed.leaseNo);
        _begin(slot, time, 0, 0);
    }

    function _close(Signed calldata signed, address sender) private returns (bool) {
        (bytes32[2] calldata m, bytes32[2] calldata w) = (signed.meter, signed.witness);
        return _try(sender, abi.encodeCall(IEscrowCore.close, (_data(signed), m[0], m[1], w[0], w[1])));
    }

    /// @notice A close keeps usage within paid and elapsed time, and never lowers it; nothing moves the end.
    function check_close_keeps_to_time(uint256 word, uint40 time, Signed calldata signed) external {
        LeaseSlot slot = _freeSlot(word, LeaseState.Active);
        _assumeSound(slot, time);
        _beginFor(signed, slot, time);
        vm.assume(_close(signed, address(this)));
        LeaseSlot next = open.slotOf(key);
        assert(next.usedMs() >= slot.usedMs());
        assert(next.usedMs() <= signed.ms);
        _assertSound(next, time);
        assert(next.end() == slot.end() && next.funded() == slot.funded());
        assert(next.state() == LeaseState.Closed);
    }

    /// @notice A close marks exactly if both signed so, and takes no mark away.
    function check_close_marks_as_signed(uint256 word, uint40 time, bool marked, Signed calldata signed) external {
        LeaseSlot slot = _marked(_freeSlot(word, LeaseState.Stopped), marked);
        _assumeSound(slot, time);
        _beginFor(signed, slot, time);
        vm.assume(_close(signed, address(this)));
        assert(open.slotOf(key).again() == (marked || signed.again));
    }

    /// @notice A close frees the node if the lease still held it.
    function check_close_frees_the_node_once(uint256 word, uint40 time, uint32 others, Signed calldata signed)
        external
    {
        for (uint256 state = uint256(LeaseState.Active); state <= uint256(LeaseState.Stopped); state++) {
            LeaseSlot slot = _freeSlot(word, LeaseState(state));
            _assumeSound(slot, time);
            _beginFor(signed, slot, time);
            open.putCapacity(PROVIDER, NODE, state == 1 ? others + slot.gpuMilli() : others);
            vm.assume(_close(signed, address(this)));
            assert(open.capacityOf(PROVIDER, NODE) == others);
        }
    }

    /// @notice What is closed, or never was, is not closed again, whoever signs.
    function check_close_is_for_open_leases(uint256 word, uint40 time, Signed calldata signed) external {
        for (uint256 state = 0; state <= uint256(LeaseState.Closed); state++) {
            if (state == uint256(LeaseState.Active) || state == uint256(LeaseState.Stopped)) continue;
            LeaseSlot slot = _slot(word, LeaseState(state));
            _beginFor(signed, slot, time);
            assert(!_close(signed, address(this)));
            assert(_bits(open.slotOf(key)) == _bits(slot));
        }
    }
}
