// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, IEscrowBase, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice stop and stopBySignature.
contract StopTest is EscrowTest {
    bytes16 private _no;
    uint256 private _start;
    uint256 private _lock;
    bytes32 private _orders;

    function setUp() public override {
        super.setUp();
        _orders = _ordersHash(_ask(), _bid());
        _no = _open();
        _start = block.timestamp;
        _lock = _lease(_no).locked;
    }

    function _stopAs(address sender) private {
        vm.prank(sender);
        escrow.stop(buyer, provider, witness, _no);
    }

    function _stopBy(uint256 key) private {
        (bytes32 r, bytes32 vs) = _compact(key, TypedData.stop(buyer, provider, _no));
        vm.prank(stranger);
        escrow.stopBySignature(buyer, provider, witness, _no, _orders, r, vs);
    }

    function _expectState(bytes4 selector, LeaseState state) private {
        vm.expectRevert(abi.encodeWithSelector(selector, _no, state));
    }

    /* REFUSED */

    function test_others_cannot_stop() public {
        address[4] memory others = [stranger, meter, escrow.extension(), feeRecipient];
        for (uint256 i = 0; i < others.length; i++) {
            _expect(IEscrowBase.NotAParty.selector, others[i]);
            _stopAs(others[i]);
        }
    }

    function test_party_of_nothing_stops_nothing() public {
        vm.startPrank(stranger);
        address[3][3] memory parties =
            [[stranger, provider, witness], [buyer, stranger, witness], [buyer, provider, stranger]];
        for (uint256 i = 0; i < 3; i++) {
            _expectState(IEscrowBase.LeaseNotActive.selector, LeaseState.None);
            escrow.stop(parties[i][0], parties[i][1], parties[i][2], _no);
        }
    }

    function test_stopped_lease_cannot_stop_again() public {
        vm.warp(_start + 100);
        _stopAs(buyer);
        vm.warp(_start + 200);
        _expectState(IEscrowBase.LeaseNotActive.selector, LeaseState.Stopped);
        _stopAs(provider);
        _expectState(IEscrowBase.LeaseNotActive.selector, LeaseState.Stopped);
        _stopBy(witnessKey);
        assertEq(_lease(_no).end, _start + 100);
    }

    function test_closed_lease_cannot_stop() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        _close(ask, bid, 0, 0, 0);
        _expectState(IEscrowBase.LeaseNotActive.selector, LeaseState.Closed);
        _stopAs(buyer);
    }

    function test_signature_of_others_cannot_stop() public {
        uint256[2] memory keys = [buyerKey, providerKey];
        for (uint256 i = 0; i < 2; i++) {
            _expect(IEscrowBase.NotMeter.selector, vm.addr(keys[i]));
            _stopBy(keys[i]);
        }
    }

    function test_meter_of_other_orders_cannot_stop() public {
        _orders = keccak256("other");
        _expect(IEscrowBase.NotMeter.selector, meter);
        _stopBy(meterKey);
    }

    function test_bad_signature_cannot_stop() public {
        (bytes32 r,) = _compact(witnessKey, TypedData.stop(buyer, provider, _no));
        _expect(IEscrowBase.NotMeter.selector, address(0));
        escrow.stopBySignature(buyer, provider, witness, _no, _orders, r, bytes32(0));
    }

    function test_signer_zero_stops_nothing() public {
        _expectState(IEscrowBase.LeaseNotActive.selector, LeaseState.None);
        escrow.stopBySignature(buyer, provider, address(0), _no, _orders, 0, 0);
    }

    function test_stop_of_another_lease_cannot_stop() public {
        (bytes32 r, bytes32 vs) = _compact(witnessKey, TypedData.stop(buyer, provider, bytes16(uint128(1))));
        vm.expectPartialRevert(IEscrowBase.NotMeter.selector);
        escrow.stopBySignature(buyer, provider, witness, _no, _orders, r, vs);
    }

    function test_stop_on_another_chain_or_contract_cannot_stop() public {
        (bytes32 r, bytes32 vs) = _compact(witnessKey, TypedData.stop(buyer, provider, _no));
        vm.chainId(block.chainid + 1);
        vm.expectPartialRevert(IEscrowBase.NotMeter.selector);
        escrow.stopBySignature(buyer, provider, witness, _no, _orders, r, vs);
        bytes32 other = TypedData.domain(block.chainid, address(token));
        (r, vs) = vm.signCompact(witnessKey, TypedData.digest(other, TypedData.stop(buyer, provider, _no)));
        vm.expectPartialRevert(IEscrowBase.NotMeter.selector);
        escrow.stopBySignature(buyer, provider, witness, _no, _orders, r, vs);
    }

    /* STOPPED */

    function _assertStopped(uint256 at) private view {
        _assertState(_no, LeaseState.Stopped);
        assertEq(_lease(_no).start, _start);
        assertEq(_lease(_no).end, at);
        assertEq(_lease(_no).fundedSeconds, at - _start);
        uint256 lock = (uint256(2.5e18) * (at - _start) + 3599) / 3600;
        assertEq(_lease(_no).locked, lock);
        assertEq(escrow.balanceOf(buyer), FUNDS - lock);
        assertEq(escrow.capacityUsed(provider, 7), 1000, "held until the lease closes");
    }

    function test_buyer_provider_and_witness_stop_as_senders() public {
        address[3] memory senders = [buyer, provider, witness];
        uint256 snapshot = vm.snapshotState();
        for (uint256 i = 0; i < 3; i++) {
            vm.warp(_start + 100);
            _stopAs(senders[i]);
            _assertStopped(_start + 100);
            vm.revertToState(snapshot);
        }
    }

    function test_witness_and_meter_stop_by_signature() public {
        uint256[2] memory keys = [witnessKey, meterKey];
        uint256 snapshot = vm.snapshotState();
        for (uint256 i = 0; i < 2; i++) {
            vm.warp(_start + 100);
            _stopBy(keys[i]);
            _assertStopped(_start + 100);
            vm.revertToState(snapshot);
        }
    }

    function test_witness_needs_no_orders() public {
        _orders = 0;
        vm.warp(_start + 100);
        _stopBy(witnessKey);
        _assertStopped(_start + 100);
    }

    function test_stop_says_what_it_unlocked() public {
        vm.warp(_start + 100);
        uint256 lock = (uint256(2.5e18) * 100 + 3599) / 3600;
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Stopped(_no, buyer, provider, uint40(_start + 100), _lock - lock);
        _stopAs(buyer);
    }

    function test_stop_after_the_end_moves_nothing() public {
        vm.warp(_start + 5000);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Stopped(_no, buyer, provider, uint40(_start + 4200), 0);
        _stopAs(provider);
        _assertStopped(_start + 4200);
    }

    function test_counted_lock_stays_whole() public {
        (Ask memory ask, Bid memory bid) = _countedOrders();
        bid.salt = 2;
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        vm.prank(buyer);
        escrow.stop(buyer, provider, witness, leaseNo);
        assertEq(_lease(leaseNo).locked, 5.8e18);
        assertTrue(_settleMetered(leaseNo, 0, 1024, 0));
    }

    function testFuzz_stop_keeps_what_was_earned(uint16 used, uint16 at, uint16 later) public {
        vm.warp(_start + used);
        _settle(_no, uint64(used) * 1000);
        uint256 released = _lease(_no).released;
        vm.warp(_start + used + at);
        _stopAs(buyer);
        assertEq(_lease(_no).released, released);
        assertEq(_lease(_no).released + _lease(_no).locked + escrow.balanceOf(buyer), FUNDS);
        uint256 end = _lease(_no).end;
        vm.warp(block.timestamp + later);
        _settle(_no, uint64(block.timestamp - _start) * 1000);
        assertLe(_lease(_no).usedMs, (end - _start) * 1000, "nothing accrues after the end");
        assertEq(_lease(_no).released + _lease(_no).locked + escrow.balanceOf(buyer), FUNDS);
    }
}
