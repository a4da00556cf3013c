// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {LeaseSlot} from "../../src/libraries/LeaseSlot.sol";
import {TypedData} from "../support/TypedData.sol";
import {EscrowProofs} from "./EscrowProofs.sol";

/// @notice settle, with one voucher of any figure under any signature.
/// @dev The lease's witness is whoever the signature recovers to, unless a proof says otherwise: what the precompile
/// answers is free, so the proofs hold for every signer. Assumed: s in the lower half (else the voucher is skipped).
/// @custom:halmos --storage-layout generic
contract SettlingProofs is EscrowProofs {
    uint256 private constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;
    uint256 private constant USED = uint256(type(uint40).max) << 152;

    struct Signed {
        uint40 ms;
        bytes32 r;
        bytes32 vs;
    }

    function _signer(Signed calldata voucher) private view returns (address) {
        uint256 s = uint256(voucher.vs) & (type(uint256).max >> 1);
        vm.assume(s <= HALF_ORDER);
        bytes32 structHash = TypedData.usage(BUYER, PROVIDER, leaseNo, voucher.ms);
        bytes32 digest = TypedData.digest(escrow.domainSeparator(), structHash);
        return ecrecover(digest, uint8(27 + (uint256(voucher.vs) >> 255)), voucher.r, bytes32(s));
    }

    function _settle(Signed calldata voucher) private {
        escrow.settle(abi.encodePacked(PROVIDER, uint16(1), BUYER, leaseNo, voucher.ms, voucher.r, voucher.vs));
    }

    function _beginFor(Signed calldata voucher, LeaseSlot slot, uint40 time, uint96 has) private {
        key = keccak256(abi.encode(_signer(voucher), BUYER, PROVIDER, leaseNo));
        _begin(slot, time, 0, has);
    }

    /// @notice What the provider gains, fee and net, is what the lease's earnings grow by.
    /// @dev Assumed: no minimum charge.
    function check_settle_conserves(uint256 word, uint96 has, Signed calldata voucher) external {
        LeaseSlot slot = _slot(word & ~(uint256(type(uint16).max) << 64), LeaseState.Active);
        vm.assume(slot.usedMs() < voucher.ms);
        vm.assume(voucher.ms <= slot.funded() * 1000);
        (uint256 paid, uint256 total) = slot.earned(voucher.ms, SCALE);
        unchecked {
            vm.assume(paid <= total); // fuzzed: testFuzz_costs_and_fees_grow_with_time
            vm.assume(total * 250 / 10_000 - paid * 250 / 10_000 <= total - paid); // fuzzed, likewise
            vm.assume(total - paid <= type(uint96).max - has); // holdings are below 2^96
        }
        _beginFor(voucher, slot, uint40(slot.end()), has);
        _settle(voucher);
        vm.assume(open.slotOf(key).usedMs() == voucher.ms);
        unchecked {
            assert(_held() == has + total - paid);
        }
    }

    /// @notice Usage never falls, and never passes funded or elapsed time; nothing else of the lease changes.
    function check_settle_keeps_to_time(uint256 word, uint40 time, Signed calldata voucher) external {
        LeaseSlot slot = _freeSlot(word, LeaseState.Active);
        _assumeSound(slot, time);
        _beginFor(voucher, slot, time, 0);
        _settle(voucher);
        LeaseSlot next = open.slotOf(key);
        assert(next.usedMs() >= slot.usedMs());
        _assertSound(next, time);
        assert(_bits(next) & ~USED == _bits(slot) & ~USED);
    }

    /// @notice A voucher at or below what was settled, or any once all that is funded was, pays nothing.
    function check_settle_replay_pays_nothing(uint256 word, uint40 time, uint96 has, Signed calldata voucher) external {
        LeaseSlot slot = _slot(word, LeaseState.Active);
        vm.assume(slot.usedMs() <= slot.funded() * 1000);
        uint256 funded = slot.funded() * 1000;
        vm.assume((voucher.ms < funded ? voucher.ms : funded) <= slot.usedMs());
        _beginFor(voucher, slot, time, has);
        _settle(voucher);
        assert(_held() == has);
        assert(_bits(open.slotOf(key)) == _bits(slot));
    }

    /// @notice A voucher ahead of the time since the start, or after the window, changes nothing.
    function check_settle_refuses_the_future_and_the_late(uint256 word, uint40 time, Signed calldata voucher) external {
        LeaseSlot slot = _freeSlot(word, LeaseState.Stopped);
        _assumeSound(slot, time);
        unchecked {
            bool ahead = voucher.ms > (time - slot.start()) * 1000;
            vm.assume(ahead || time > slot.end() + SETTLE_WINDOW);
        }
        _beginFor(voucher, slot, time, 0);
        _settle(voucher);
        assert(_bits(open.slotOf(key)) == _bits(slot));
    }

    /// @notice In the window, its last second included, a voucher of higher usage counts in full: the provider's to
    /// present, whatever others did.
    function check_settle_is_live_in_the_window(uint256 word, uint40 time, Signed calldata voucher) external {
        LeaseSlot slot = _freeSlot(word, LeaseState.Stopped);
        _assumeSound(slot, time);
        unchecked {
            vm.assume(time <= slot.end() + SETTLE_WINDOW);
            vm.assume(voucher.ms <= (time - slot.start()) * 1000);
        }
        vm.assume(voucher.ms > slot.usedMs());
        vm.assume(voucher.ms <= slot.funded() * 1000);
        _beginFor(voucher, slot, time, 0);
        _settle(voucher);
        assert(open.slotOf(key).usedMs() == voucher.ms);
    }

    /// @notice A lease that is neither active nor stopped is paid nothing.
    function check_settle_is_for_open_leases(uint256 word, uint40 time, Signed calldata voucher) external {
        key = keccak256(abi.encode(_signer(voucher), BUYER, PROVIDER, leaseNo));
        for (uint256 state = 0; state <= uint256(LeaseState.Closed); state++) {
            if (state == uint256(LeaseState.Active) || state == uint256(LeaseState.Stopped)) continue;
            LeaseSlot slot = _slot(word, LeaseState(state));
            _begin(slot, time, 0, 0);
            _settle(voucher);
            assert(_bits(open.slotOf(key)) == _bits(slot));
        }
    }

    /// @notice A voucher that somebody else than the witness signed pays nothing and changes nothing.
    function check_settle_by_a_stranger_changes_nothing(uint256 word, uint40 time, uint96 has, Signed calldata voucher)
        external
    {
        LeaseSlot slot = _freeSlot(word, LeaseState.Active);
        _begin(slot, time, 0, has);
        vm.assume(_signer(voucher) != WITNESS);
        _settle(voucher);
        assert(_held() == has);
        assert(_bits(open.slotOf(key)) == _bits(slot));
    }
}
