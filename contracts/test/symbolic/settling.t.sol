// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowCore, IEscrowExtension, LeaseKey, LeaseState, Numbered} from "../../src/interfaces/IComputeEscrow.sol";
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
    function check_settle_conserves(uint256 word, uint96 has, Signed calldata voucher) external {
        LeaseSlot slot = _slot(word, LeaseState.Active);
        vm.assume(slot.startSeconds() <= slot.funded());
        vm.assume(slot.usedMs() < voucher.ms);
        vm.assume(voucher.ms <= slot.paidSeconds() * 1000);
        (uint256 paid, uint256 total) = (slot.paidTime(SCALE), slot.timeCost(voucher.ms, SCALE));
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

    /// @notice Usage never falls, and never passes paid or elapsed time; nothing else of the lease changes.
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

    /// @notice Whatever a voucher says, usage counts up to the paid seconds, and with it what is paid: never the start
    /// seconds.
    function check_settle_never_pays_beyond_paid_seconds(uint256 word, uint40 time, Signed calldata voucher) external {
        LeaseSlot slot = _freeSlot(word, LeaseState.Active);
        _assumeSound(slot, time);
        vm.assume(voucher.ms > slot.paidSeconds() * 1000);
        _beginFor(voucher, slot, time, 0);
        _settle(voucher);
        assert(open.slotOf(key).usedMs() <= slot.paidSeconds() * 1000);
    }

    /// @notice No voucher marks a lease or takes a mark away.
    function check_settle_keeps_the_mark(uint256 word, uint40 time, bool again, Signed calldata voucher) external {
        LeaseSlot slot = _marked(_freeSlot(word, LeaseState.Stopped), again);
        _assumeSound(slot, time);
        _beginFor(voucher, slot, time, 0);
        _settle(voucher);
        assert(open.slotOf(key).again() == again);
    }

    /// @notice A voucher at or below what was settled, or any once all that is paid was, pays nothing.
    function check_settle_replay_pays_nothing(uint256 word, uint40 time, uint96 has, Signed calldata voucher) external {
        LeaseSlot slot = _slot(word, LeaseState.Active);
        vm.assume(slot.startSeconds() <= slot.funded());
        vm.assume(slot.usedMs() <= slot.paidSeconds() * 1000);
        uint256 most = slot.paidSeconds() * 1000;
        vm.assume((voucher.ms < most ? voucher.ms : most) <= slot.usedMs());
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
        vm.assume(voucher.ms <= slot.paidSeconds() * 1000);
        _beginFor(voucher, slot, time, 0);
        _settle(voucher);
        assert(open.slotOf(key).usedMs() == voucher.ms);
    }

    uint40 private constant START = 1 << 38;

    struct Course {
        uint32 gpuMilli;
        uint40 used;
        uint32 funded;
        uint16 startSeconds;
        uint32 elapsed; // seconds from the start to the call
        uint32 more; // seconds from the call to the settlement
    }

    /// @dev Usage that is signed by now counts in full at any time up to the settle window's last second, if `sender`
    /// makes this call at an active lease in between. Assumed: the lease is free and started at `START`.
    function _staysPayable(Course calldata c, Signed calldata voucher, address sender, uint256 call) private {
        uint256 time;
        uint256 later;
        LeaseSlot slot;
        unchecked {
            time = uint256(START) + c.elapsed;
            later = time + c.more;
            uint256 word = (uint256(c.used) << 152) | ((uint256(START) + c.funded) << 112) | (uint256(c.funded) << 80);
            word |= (uint256(c.startSeconds) << 64) | (uint256(c.gpuMilli) << 32);
            slot = _slot(word, LeaseState.Active);
            vm.assume(c.startSeconds <= c.funded);
            vm.assume(voucher.ms > c.used);
            vm.assume(voucher.ms <= (uint256(c.funded) - c.startSeconds) * 1000);
            vm.assume(voucher.ms <= uint256(c.elapsed) * 1000);
            vm.assume(voucher.ms <= (uint256(c.elapsed) + c.more) * 1000); // follows
        }
        _beginFor(voucher, slot, uint40(time), 0);
        _try(sender, _call(call, LeaseKey(BUYER, PROVIDER, _signer(voucher), leaseNo)));
        LeaseSlot next = open.slotOf(key);
        unchecked {
            // as many seconds stay paid as have passed, or as were; what was signed is within both
            assert(next.paidSeconds() == uint256(c.funded) - c.startSeconds || next.paidSeconds() >= c.elapsed);
            assert(next.start() == START);
            vm.assume(voucher.ms <= next.paidSeconds() * 1000); // follows
            vm.assume(voucher.ms <= (later - next.end() + next.funded()) * 1000); // follows
            vm.assume(later <= next.end() + SETTLE_WINDOW);
        }
        vm.warp(later);
        _settle(voucher);
        assert(open.slotOf(key).usedMs() == voucher.ms);
    }

    uint256 private constant STOP = 0;
    uint256 private constant REFUND = 1;
    uint256 private constant FREE = 2;

    function _call(uint256 which, LeaseKey memory named) private pure returns (bytes memory) {
        if (which == STOP) return abi.encodeCall(IEscrowCore.stop, (named, false));
        if (which == REFUND) return abi.encodeCall(IEscrowCore.refund, (named));
        LeaseKey[] memory keys = new LeaseKey[](1);
        keys[0] = named;
        return abi.encodeCall(IEscrowCore.free, (keys));
    }

    /// @notice Countersigned usage stays payable inside the whole settle window, whoever stops the lease.
    function check_usage_stays_payable_after_a_stop(Course calldata c, Signed calldata voucher, address sender)
        external
    {
        _staysPayable(c, voucher, sender, STOP);
    }

    /// @notice Countersigned usage stays payable inside the whole settle window, whoever asks for a refund.
    function check_usage_stays_payable_after_asking_for_a_refund(
        Course calldata c,
        Signed calldata voucher,
        address sender
    ) external {
        _staysPayable(c, voucher, sender, REFUND);
    }

    /// @notice Countersigned usage stays payable inside the whole settle window, whoever frees the node.
    function check_usage_stays_payable_after_freeing(Course calldata c, Signed calldata voucher, address sender)
        external
    {
        _staysPayable(c, voucher, sender, FREE);
    }

    /// @notice Who cancels orders, withdraws or collects fees leaves the lease as it is.
    function check_other_calls_leave_the_lease(uint256 word, uint40 time, uint96 has, uint64 salt, bool andOlder)
        external
    {
        LeaseSlot slot = _slot(word, LeaseState.Active);
        key = keccak256(abi.encode(WITNESS, BUYER, PROVIDER, leaseNo));
        _begin(slot, time, has, 0);
        address[] memory providers = new address[](1);
        providers[0] = PROVIDER;
        bool cancelled =
            _try(BUYER, abi.encodeCall(IEscrowExtension.cancel, (BUYER, Numbered.Orders, salt, andOlder, "")));
        assert(cancelled == !(andOlder && salt == type(uint64).max));
        assert(_try(BUYER, abi.encodeCall(IEscrowCore.withdraw, (BUYER, has))) == (has > 0));
        assert(_try(PROVIDER, abi.encodeCall(IEscrowExtension.collectFees, (providers))));
        assert(_bits(open.slotOf(key)) == _bits(slot));
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
