// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Vm} from "forge-std/Vm.sol";

import {Ask, Bid, IEscrowBase, LeaseState, Numbered} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";

contract SettleTest is EscrowTest {
    uint256 private constant N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;

    bytes16 private _no;
    uint256 private _start;

    function setUp() public override {
        super.setUp();
        _no = _open();
        _start = block.timestamp;
    }

    function _assertUnpaid() private view {
        assertEq(_lease(_no).usedMs, 0);
        assertEq(escrow.balanceOf(provider), 0);
        assertEq(escrow.feesOf(provider), 0);
    }

    /* MALFORMED */

    function _refuseEntries(bytes memory entries, uint256 offset) private {
        _expect(IEscrowBase.MalformedEntries.selector, bytes32(offset));
        escrow.settle(entries);
    }

    function test_malformed_entries_revert() public {
        bytes memory entry = _entry(_no, 1000);
        bytes memory run = _single(entry);
        _refuseEntries(hex"00", 0); // no whole header
        _refuseEntries(abi.encodePacked(provider), 0); // no count
        _refuseEntries(abi.encodePacked(provider, uint16(0)), 0); // an empty run
        _refuseEntries(abi.encodePacked(provider, uint16(2), entry), 0); // an entry missing
        _refuseEntries(abi.encodePacked(run, hex"00"), run.length); // a byte too many
        _refuseEntries(abi.encodePacked(run, provider, uint16(0)), run.length);
        _refuseEntries(abi.encodePacked(provider, type(uint16).max, entry), 0);
    }

    function testFuzz_cut_entries_revert(uint8 length) public {
        bytes memory whole = _single(_entry(_no, 1000));
        uint256 kept = bound(length, 1, whole.length - 1);
        bytes memory cut = new bytes(kept);
        for (uint256 i = 0; i < kept; i++) {
            cut[i] = whole[i];
        }
        _refuseEntries(cut, 0);
    }

    function test_more_entries_than_a_batch_revert() public {
        bytes memory entries = abi.encodePacked(provider, uint16(1001), new bytes(1001 * 105));
        _expect(IEscrowBase.BatchTooLarge.selector, 1000, 1001);
        escrow.settle(entries);
        entries =
            abi.encodePacked(provider, uint16(600), new bytes(600 * 105), provider, uint16(401), new bytes(401 * 105));
        _expect(IEscrowBase.BatchTooLarge.selector, 1000, 1001);
        escrow.settle(entries);
    }

    function test_no_entries_settle_nothing() public {
        assertEq(escrow.settle(""), "");
    }

    function test_bytes_behind_the_entries_are_not_read() public {
        vm.warp(_start + 100);
        bytes memory run = _single(_entry(_no, 50_000));
        bytes memory behind = _single(_entry(_no, 100_000));
        bytes memory call = abi.encodePacked(escrow.settle.selector, uint256(0x20), run.length, run, behind);
        (bool ok, bytes memory answer) = address(escrow).call(call);
        assertTrue(ok);
        assertEq(abi.decode(answer, (bytes)), hex"00");
        assertEq(_lease(_no).usedMs, 50_000);
    }

    function test_full_batch_of_nonsense_is_skipped() public {
        bytes memory skipped = escrow.settle(abi.encodePacked(provider, uint16(1000), new bytes(1000 * 105)));
        assertEq(skipped.length, 125);
        for (uint256 i = 0; i < 125; i++) {
            assertEq(uint8(skipped[i]), 255);
        }
    }

    /* SKIPPED */

    function test_stale_usage_is_skipped() public {
        vm.warp(_start + 100);
        assertTrue(_settle(_no, 50_000));
        assertFalse(_settle(_no, 50_000), "replayed");
        assertFalse(_settle(_no, 49_999), "older");
        assertFalse(_settle(_no, 0), "nothing");
        assertEq(_lease(_no).usedMs, 50_000);
    }

    function test_usage_ahead_of_time_is_skipped_until_its_time() public {
        vm.warp(_start + 100);
        assertFalse(_settle(_no, 100_001));
        _assertUnpaid();
        vm.warp(_start + 101);
        assertTrue(_settle(_no, 100_001));
    }

    function test_usage_in_the_first_second_is_ahead() public {
        assertFalse(_settle(_no, 1));
    }

    function test_settle_window_ends_with_its_last_second() public {
        uint256 end = _lease(_no).end;
        vm.warp(end + SETTLE_WINDOW);
        assertTrue(_settle(_no, 1000));
        vm.warp(end + SETTLE_WINDOW + 1);
        assertFalse(_settle(_no, 2000));
    }

    function test_closed_lease_is_skipped() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        vm.warp(_start + 100);
        _close(ask, bid, 10_000, 0, 0);
        assertFalse(_settle(_no, 50_000));
        assertEq(_lease(_no).usedMs, 10_000);
    }

    function test_signature_by_another_key_is_skipped() public {
        vm.warp(_start + 100);
        uint256[3] memory keys = [buyerKey, providerKey, meterKey];
        for (uint256 i = 0; i < 3; i++) {
            assertEq(escrow.settle(_single(_entryBy(keys[i], buyer, provider, _no, 1000))), hex"01");
        }
        _assertUnpaid();
    }

    /// @dev Every byte of an entry is signed, or is the signature: a change anywhere and it is skipped.
    function test_change_of_any_byte_is_skipped() public {
        vm.warp(_start + 4000);
        bytes memory whole = _single(_entry(_no, 1_000_000));
        for (uint256 i = 0; i < whole.length; i++) {
            if (i == 20 || i == 21) continue; // the count
            bytes memory changed = bytes.concat(whole);
            changed[i] ^= 0x01;
            assertEq(escrow.settle(changed), hex"01");
        }
        _assertUnpaid();
        assertEq(escrow.settle(whole), hex"00");
    }

    function test_other_form_of_a_signature_is_skipped() public {
        vm.warp(_start + 100);
        bytes memory whole = _single(_entry(_no, 1000));
        (bytes32 r, bytes32 vs) = _signatureOf(whole);
        uint256 s = N - (uint256(vs) & (type(uint256).max >> 1)); // above half the order: its top bit is set, or not
        bytes memory head = abi.encodePacked(provider, uint16(1), buyer, _no, uint40(1000));
        for (uint256 v = 0; v < 2; v++) {
            bytes32 high = bytes32((v << 255) | (s & (type(uint256).max >> 1)));
            assertEq(escrow.settle(abi.encodePacked(head, r, high)), hex"01");
        }
        assertEq(escrow.settle(abi.encodePacked(head, r, vs ^ bytes32(uint256(1) << 255))), hex"01", "other v");
        assertEq(escrow.settle(abi.encodePacked(head, bytes32(0), vs)), hex"01", "no r");
        assertEq(escrow.settle(abi.encodePacked(head, r, bytes32(0))), hex"01", "no s");
        assertEq(escrow.settle(abi.encodePacked(head, bytes32(0), bytes32(0))), hex"01", "nothing");
        _assertUnpaid();
        assertEq(escrow.settle(abi.encodePacked(head, r, vs)), hex"00");
    }

    function _signatureOf(bytes memory whole) private pure returns (bytes32 r, bytes32 vs) {
        uint256 length = whole.length;
        assembly ("memory-safe") {
            r := mload(add(add(whole, 0x20), sub(length, 0x40)))
            vs := mload(add(add(whole, 0x20), sub(length, 0x20)))
        }
    }

    function test_usage_of_another_chain_is_skipped() public {
        vm.warp(_start + 100);
        bytes memory whole = _single(_entry(_no, 1000));
        vm.chainId(block.chainid + 1);
        assertEq(escrow.settle(whole), hex"01");
    }

    function test_usage_of_another_contract_is_skipped() public {
        vm.warp(_start + 100);
        bytes memory whole = _single(_entry(_no, 1000));
        escrow = _newEscrow(address(token), FEE_BPS);
        _fund(buyer, FUNDS);
        vm.warp(_start);
        _open();
        vm.warp(_start + 100);
        assertEq(escrow.settle(whole), hex"01");
        assertTrue(_settle(_no, 1000), "own domain");
    }

    function test_metered_usage_is_not_usage() public {
        vm.warp(_start + 100);
        bytes memory metered = _meteredEntry(_no, 1000, 0, 0);
        bytes memory cut = abi.encodePacked(buyer, _no, uint40(1000));
        (bytes32 r, bytes32 vs) = _signatureOf(metered);
        assertEq(escrow.settle(_single(abi.encodePacked(cut, r, vs))), hex"01");
    }

    /* PAID */

    function test_payment_event_and_balances() public {
        vm.warp(_start + 1440);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Settled(provider, abi.encodePacked(_no, uint40(1_440_000)));
        vm.recordLogs();
        vm.prank(stranger);
        escrow.settle(_single(_entry(_no, 1_440_000)));
        assertEq(vm.getRecordedLogs().length, 1);
        assertEq(_lease(_no).usedMs, 1_440_000);
        assertEq(_lease(_no).released, 1e18);
        assertEq(escrow.balanceOf(provider), 0.975e18);
        assertEq(escrow.feesOf(provider), 0.025e18);
        assertEq(escrow.balanceOf(stranger), 0);
        _assertState(_no, LeaseState.Active);
    }

    function test_skipped_run_says_nothing() public {
        vm.recordLogs();
        assertFalse(_settle(_no, 1000));
        assertEq(vm.getRecordedLogs().length, 0);
    }

    function test_first_millisecond_costs_a_millisecond() public {
        vm.warp(_start + 100);
        assertTrue(_settle(_no, 1));
        assertEq(_lease(_no).released, uint256(2.5e18) / 3_600_000);
        assertTrue(_settle(_no, 31_000));
        assertEq(_lease(_no).released, uint256(2.5e18) * 31 / 3600);
    }

    function test_usage_beyond_the_funded_is_paid_as_the_funded() public {
        vm.warp(_start + 5000);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Settled(provider, abi.encodePacked(_no, uint40(3_600_000)));
        assertTrue(_settle(_no, 4_999_000));
        assertEq(_lease(_no).usedMs, 3_600_000);
        assertEq(_lease(_no).locked, 0);
        assertFalse(_settle(_no, 5_000_000), "nothing is left to earn");
    }

    function test_usage_after_a_stop_is_paid_up_to_it() public {
        vm.warp(_start + 100);
        vm.prank(buyer);
        escrow.stop(_key(_no), false);
        vm.warp(_start + 101);
        assertTrue(_settle(_no, 100_400), "signed a moment after the stop");
        assertEq(_lease(_no).usedMs, 100_000);
    }

    /// @dev Invariant 13: what the witness signed is the provider's to present until the window's last second.
    function test_countersigned_usage_stays_payable_whatever_the_others_do() public {
        vm.warp(_start + 100);
        bytes memory entries = _single(_entry(_no, 100_000));
        vm.startPrank(buyer);
        escrow.stop(_key(_no), false);
        escrow.cancel(buyer, Numbered.Orders, 1, false, "");
        escrow.cancel(buyer, Numbered.Orders, 1000, true, "");
        escrow.withdraw(buyer, escrow.balanceOf(buyer));
        vm.stopPrank();
        address[] memory providers = new address[](1);
        providers[0] = provider;
        vm.prank(feeRecipient);
        escrow.collectFees(providers);

        uint256 last = _start + 100 + SETTLE_WINDOW;
        vm.warp(last);
        _expect(IEscrowBase.RefundTooEarly.selector, last, last);
        vm.prank(buyer);
        escrow.refund(_key(_no));
        assertEq(escrow.settle(entries), hex"00");
        assertEq(_lease(_no).released, uint256(2.5e18) * 100 / 3600);
        assertEq(escrow.balanceOf(provider) + escrow.feesOf(provider), _lease(_no).released);
    }

    function test_stopped_at_once_pays_nothing() public {
        vm.prank(buyer);
        escrow.stop(_key(_no), false);
        vm.warp(_start + 100);
        assertFalse(_settle(_no, 50_000));
        _assertUnpaid();
    }

    function test_runs_of_many_providers_in_one_batch() public {
        (address other, uint256 otherKey) = makeAddrAndKey("other provider");
        Ask memory ask = _ask();
        ask.provider = other;
        Bid memory bid = _bid();
        bid.salt = 2;
        uint256 ownKey = providerKey;
        providerKey = otherKey;
        bytes16 second = escrow.open(_match(ask, bid));
        providerKey = ownKey;

        vm.warp(_start + 1440);
        bytes memory mine = abi.encodePacked(_entry(_no, 720_000), _entry(_no, 0), _entry(_no, 1_440_000));
        bytes memory theirs = _entryBy(witnessKey, buyer, other, second, 1_440_000);
        bytes memory entries = abi.encodePacked(
            provider, uint16(3), mine, other, uint16(2), theirs, theirs, provider, uint16(1), _entry(_no, 1_440_000)
        );
        vm.recordLogs();
        assertEq(escrow.settle(entries), hex"32"); // entries 1, 4 and 5
        Vm.Log[] memory logs = vm.getRecordedLogs();
        assertEq(logs.length, 2);
        bytes memory settled = abi.decode(logs[0].data, (bytes));
        assertEq(settled, abi.encodePacked(_no, uint40(720_000), _no, uint40(1_440_000)));
        assertEq(abi.decode(logs[1].data, (bytes)), abi.encodePacked(second, uint40(1_440_000)));
        assertEq(escrow.balanceOf(provider), 0.975e18);
        assertEq(escrow.balanceOf(other), 0.975e18);
    }

    function test_own_buyer_is_paid_from_its_own_lock() public {
        Ask memory ask = _ask();
        ask.provider = buyer;
        Bid memory bid = _bid();
        bid.salt = 2;
        (uint256 key, uint256 before) = (providerKey, escrow.balanceOf(buyer));
        providerKey = buyerKey;
        bytes16 second = escrow.open(_match(ask, bid));
        vm.warp(_start + 1440);
        bytes memory entry = _entryBy(witnessKey, buyer, buyer, second, 720_000);
        assertEq(escrow.settle(abi.encodePacked(buyer, uint16(1), entry)), hex"00");
        provider = buyer;
        _close(ask, bid, 1_440_000, 0, 0);
        providerKey = key;
        assertEq(escrow.balanceOf(buyer) + escrow.feesOf(buyer), before);
        assertEq(escrow.feesOf(buyer), 0.025e18);
    }

    /* FUZZ */

    /// @dev Settled in any steps, in any order, a lease pays what its greatest accepted usage costs, and the fee of that.
    function testFuzz_any_steps_pay_as_one(uint32[12] memory steps, uint64 price) public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        ask.floor.gpuHour = uint64(bound(price, 1, 1e12));
        bid.limits[0].rate = 1e15;
        bid.salt = 2;
        bid.budget = type(uint128).max;
        _fund(buyer, 100_000_000e18);
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        vm.warp(_start + 4200);
        uint256 greatest = 0;
        for (uint256 i = 0; i < steps.length; i++) {
            uint64 ms = uint64(bound(steps[i], 0, 3_600_000));
            assertEq(_settle(leaseNo, ms), ms > greatest);
            if (ms > greatest) greatest = ms;
        }
        uint256 cost = uint256(ask.floor.gpuHour) * 1000 * greatest * 1e18 / 3.6e18;
        assertEq(_lease(leaseNo).released, cost);
        assertEq(escrow.feesOf(provider), cost * FEE_BPS / 10_000);
        assertEq(escrow.balanceOf(provider), cost - cost * FEE_BPS / 10_000);
    }

    function testFuzz_lock_and_released_always_sum(uint32 ms, uint16 warp) public {
        uint256 lock = _lease(_no).locked;
        vm.warp(_start + warp);
        _settle(_no, ms);
        assertEq(_lease(_no).locked + _lease(_no).released, lock);
        assertLe(_lease(_no).usedMs, uint256(warp) * 1000);
    }

    /// forge-config: default.fuzz.runs = 10000
    /// forge-config: nightly.fuzz.runs = 50000
    function testFuzz_random_bytes_never_pay(bytes memory entries) public {
        vm.warp(_start + 4000);
        (bool ok,) = address(escrow).call(abi.encodeCall(escrow.settle, (entries)));
        if (ok) _assertUnpaid();
    }
}
