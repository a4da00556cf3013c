// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Vm} from "forge-std/Vm.sol";

import {Ask, Bid, CloseData, IEscrowBase, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice The mark that a bid's seat may open once more: who sets it, when, and how often it is said.
contract AgainTest is EscrowTest {
    bytes16 private _no;
    uint256 private _start;

    function setUp() public override {
        super.setUp();
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        _no = escrow.open(_match(ask, bid));
        _start = block.timestamp;
    }

    function _stopAs(address sender, bool again) private {
        vm.prank(sender);
        escrow.stop(_key(_no), again);
    }

    function _data(bool again) private view returns (CloseData memory data) {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        data = _closeData(ask, bid, 0, 0, 0);
        data.again = again;
    }

    function _expectMarked() private {
        vm.expectEmit(address(escrow));
        emit IEscrowBase.MarkedAgain(_no, buyer, provider);
    }

    /* REFUSED */

    /// @dev Whoever serves a lease could otherwise end it and take the buyer's budget with the next one.
    function test_provider_meter_and_strangers_cannot_mark() public {
        address[4] memory others = [provider, meter, stranger, feeRecipient];
        for (uint256 i = 0; i < 4; i++) {
            _expect(IEscrowBase.NotAParty.selector, others[i]);
            _stopAs(others[i], true);
        }
        _stopAs(provider, false);
        for (uint256 i = 0; i < 4; i++) {
            _expect(IEscrowBase.NotAParty.selector, others[i]);
            _stopAs(others[i], true);
        }
        assertFalse(_lease(_no).again);
    }

    function test_no_lease_cannot_be_marked() public {
        bytes16 none = bytes16(uint128(1));
        _expectState(IEscrowBase.LeaseNotActive.selector, none, LeaseState.None);
        vm.prank(buyer);
        escrow.stop(_key(none), true);
        assertFalse(_lease(none).again);
    }

    function test_free_and_refund_mark_nothing() public {
        vm.warp(_start + 4200);
        escrow.free(_keys(_no));
        assertFalse(_lease(_no).again);
        vm.warp(_start + 4201 + SETTLE_WINDOW);
        escrow.refund(_key(_no));
        assertFalse(_lease(_no).again);
    }

    /* MARKED */

    function test_buyer_and_witness_stop_and_mark() public {
        address[2] memory senders = [buyer, witness];
        uint256 snapshot = vm.snapshotState();
        for (uint256 i = 0; i < 2; i++) {
            vm.recordLogs();
            _stopAs(senders[i], true);
            Vm.Log[] memory logs = vm.getRecordedLogs();
            assertEq(logs.length, 2);
            assertEq(logs[0].topics[0], IEscrowBase.Stopped.selector);
            assertEq(logs[1].topics[0], IEscrowBase.MarkedAgain.selector);
            assertEq(logs[1].topics[1], _no);
            assertEq(logs[1].topics[2], bytes32(uint256(uint160(buyer))));
            assertEq(logs[1].topics[3], bytes32(uint256(uint160(provider))));
            assertEq(logs[1].data, "");
            assertTrue(_lease(_no).again);
            _assertState(_no, LeaseState.Stopped);
            vm.revertToState(snapshot);
        }
    }

    /// @dev A mark changes nothing else of a lease that has ended already.
    function test_stopped_lease_is_only_marked() public {
        vm.warp(_start + 100);
        _stopAs(provider, false);
        uint256 balance = escrow.balanceOf(buyer);
        vm.warp(_start + 200);
        _expectMarked();
        vm.recordLogs();
        _stopAs(witness, true);
        assertEq(vm.getRecordedLogs().length, 1, "it was stopped before");
        assertTrue(_lease(_no).again);
        _assertState(_no, LeaseState.Stopped);
        assertEq(_lease(_no).end, _start + 100);
        assertEq(escrow.balanceOf(buyer), balance);
        assertEq(escrow.capacityUsed(provider, 7), 0);
        assertTrue(_settle(_no, 100_000), "usage is still paid");
        assertTrue(_lease(_no).again);
    }

    function test_closed_lease_is_only_marked() public {
        _close(_data(false));
        uint256 balance = escrow.balanceOf(buyer);
        _expectMarked();
        vm.recordLogs();
        _stopAs(buyer, true);
        assertEq(vm.getRecordedLogs().length, 1);
        assertTrue(_lease(_no).again);
        _assertState(_no, LeaseState.Closed);
        assertEq(escrow.balanceOf(buyer), balance);
        assertEq(escrow.capacityUsed(provider, 7), 0);
    }

    function test_refunded_lease_is_only_marked() public {
        vm.warp(_start + 4201 + SETTLE_WINDOW);
        escrow.refund(_key(_no));
        _expectMarked();
        _stopAs(buyer, true);
        _assertState(_no, LeaseState.Closed);
    }

    function test_ended_lease_is_stopped_and_marked() public {
        vm.warp(_start + 5000);
        _stopAs(buyer, true);
        assertTrue(_lease(_no).again);
        assertEq(_lease(_no).end, _start + 4200);
        _assertState(_no, LeaseState.Stopped);
    }

    function test_second_mark_says_nothing() public {
        _stopAs(buyer, true);
        vm.recordLogs();
        _stopAs(buyer, true);
        _stopAs(witness, true);
        assertEq(vm.getRecordedLogs().length, 0);
        _close(_data(true));
        assertEq(vm.getRecordedLogs().length, 1, "Closed");
        _stopAs(witness, true);
        assertEq(vm.getRecordedLogs().length, 0);
        assertTrue(_lease(_no).again);
        _assertState(_no, LeaseState.Closed);
    }

    function test_mark_stays_when_the_lease_is_closed_or_refunded_later() public {
        _stopAs(buyer, true);
        uint256 snapshot = vm.snapshotState();
        _close(_data(false));
        assertTrue(_lease(_no).again, "a close that does not say it takes nothing back");
        vm.revertToState(snapshot);
        vm.warp(_start + SETTLE_WINDOW + 1);
        escrow.refund(_key(_no));
        assertTrue(_lease(_no).again);
    }

    /* BY CLOSE */

    function test_close_marks_if_both_keys_say_so() public {
        vm.recordLogs();
        _close(_data(true));
        Vm.Log[] memory logs = vm.getRecordedLogs();
        assertEq(logs.length, 2);
        assertEq(logs[0].topics[0], IEscrowBase.Closed.selector);
        assertEq(logs[1].topics[0], IEscrowBase.MarkedAgain.selector);
        assertTrue(_lease(_no).again);
        _assertState(_no, LeaseState.Closed);
    }

    function test_close_without_the_word_marks_nothing() public {
        vm.recordLogs();
        _close(_data(false));
        assertEq(vm.getRecordedLogs().length, 1);
        assertFalse(_lease(_no).again);
    }

    /// @dev The meter, which is the provider's, or the witness signed another word than the one that is sent.
    function test_close_needs_the_word_of_both_keys() public {
        bytes32 said = TypedData.close(_data(true));
        bytes32 unsaid = TypedData.close(_data(false));
        (bytes32 meterR, bytes32 meterVs) = _compact(meterKey, said);
        (bytes32 witnessR, bytes32 witnessVs) = _compact(witnessKey, unsaid);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.LeaseNotOpen.selector, _no, LeaseState.None));
        escrow.close(_data(true), meterR, meterVs, witnessR, witnessVs);
        vm.expectPartialRevert(IEscrowBase.NotMeter.selector);
        escrow.close(_data(false), meterR, meterVs, witnessR, witnessVs);
    }
}
