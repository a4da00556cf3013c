// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, IEscrowBase, LeaseState, Numbered, Relay} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";
import {BadWallet, OwnedWallet} from "../support/Wallets.sol";

/// @notice topUpBySignature: the buyer signs, anyone sends, for a fee on top. What bounds a top-up itself: topUp.t.sol.
contract TopUpBySignatureTest is EscrowTest {
    uint96 private constant FEE = 0.1e18;
    uint256 private constant MORE = uint256(2.5e18) * 60 / 3600 + 1; // of a minute, rounded up

    bytes16 private _no;
    address private _relayer = makeAddr("relayer");

    function setUp() public override {
        super.setUp();
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        _no = escrow.open(_match(ask, bid));
    }

    /// @dev For anyone to send.
    function _relay(uint64 salt) private view returns (Relay memory) {
        return Relay(salt, uint40(block.timestamp + 100), address(0), FEE);
    }

    function _signTopUp(uint256 key, uint32 seconds_, Relay memory relay) private view returns (bytes memory) {
        return _sign(key, TypedData.topUp(buyer, provider, _no, seconds_, relay));
    }

    function _send(uint32 seconds_, Relay memory relay, bytes memory signature) private {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        bid.buyer = buyer;
        vm.prank(_relayer);
        escrow.topUpBySignature(ask, bid, TypedData.hash(ask.floor), 0, seconds_, relay, signature);
    }

    function _topUp(Relay memory relay) private {
        _send(60, relay, _signTopUp(buyerKey, 60, relay));
    }

    function _expectUsed(uint64 salt) private {
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.CallUsed.selector, buyer, salt));
    }

    /* REFUSED: SIGNATURE */

    function test_every_member_is_signed() public {
        bytes memory signature = _signTopUp(buyerKey, 60, _relay(1));
        for (uint256 i = 0; i < 5; i++) {
            (uint32 seconds_, Relay memory relay) = (60, _relay(1));
            if (i == 0) seconds_++;
            if (i == 1) relay.salt++;
            if (i == 2) relay.deadline++;
            if (i == 3) relay.relayer = _relayer;
            if (i == 4) relay.fee++;
            _expect(IEscrowBase.InvalidSignature.selector, buyer);
            _send(seconds_, relay, signature);
        }
        _send(60, _relay(1), signature);
    }

    /// @dev The lease that was signed for is the one that the orders, prices and seat name.
    function test_signature_is_of_one_lease() public {
        bytes memory signature = _signTopUp(buyerKey, 60, _relay(1));
        for (uint256 i = 0; i < 6; i++) {
            (Ask memory ask, Bid memory bid) = _lastingOrders();
            bytes32 pricesHash = TypedData.hash(ask.floor);
            uint16 seat = 0;
            if (i == 0) ask.provider = stranger;
            if (i == 1) ask.salt++;
            if (i == 2) bid.salt++;
            if (i == 3) bid.budget = type(uint128).max;
            if (i == 4) pricesHash = keccak256("prices");
            if (i == 5) seat = 1;
            _expect(IEscrowBase.InvalidSignature.selector, buyer);
            escrow.topUpBySignature(ask, bid, pricesHash, seat, 60, _relay(1), signature);
        }
        (Ask memory ask_, Bid memory bid_) = _lastingOrders();
        bid_.buyer = stranger;
        _expect(IEscrowBase.InvalidSignature.selector, stranger);
        escrow.topUpBySignature(ask_, bid_, TypedData.hash(ask_.floor), 0, 60, _relay(1), signature);
    }

    function test_others_do_not_top_up_for_the_buyer() public {
        uint256[3] memory keys = [providerKey, witnessKey, meterKey];
        for (uint256 i = 0; i < 3; i++) {
            bytes memory signature = _signTopUp(keys[i], 60, _relay(1));
            _expect(IEscrowBase.InvalidSignature.selector, buyer);
            _send(60, _relay(1), signature);
        }
    }

    function test_signature_of_another_chain_or_contract_is_refused() public {
        bytes memory signature = _signTopUp(buyerKey, 60, _relay(1));
        uint256 chainId = block.chainid;
        vm.chainId(chainId + 1);
        _expect(IEscrowBase.InvalidSignature.selector, buyer);
        _send(60, _relay(1), signature);
        vm.chainId(chainId);
        escrow = _newEscrow(address(token), FEE_BPS);
        _expect(IEscrowBase.InvalidSignature.selector, buyer);
        _send(60, _relay(1), signature);
    }

    /* REFUSED: RELAY */

    function test_call_after_its_deadline_is_refused() public {
        Relay memory relay = _relay(1);
        bytes memory signature = _signTopUp(buyerKey, 60, relay);
        vm.warp(uint256(relay.deadline) + 1);
        _expect(IEscrowBase.SignatureExpired.selector, relay.deadline, uint256(relay.deadline) + 1);
        _send(60, relay, signature);
        vm.warp(relay.deadline);
        _send(60, relay, signature);
    }

    function test_only_the_named_relayer_sends() public {
        Relay memory relay = _relay(1);
        relay.relayer = stranger;
        bytes memory signature = _signTopUp(buyerKey, 60, relay);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotRelayer.selector, stranger, _relayer));
        _send(60, relay, signature);
        relay.relayer = _relayer;
        _topUp(relay);
    }

    function test_call_is_sent_once() public {
        bytes memory signature = _signTopUp(buyerKey, 60, _relay(1));
        _send(60, _relay(1), signature);
        _expectUsed(1);
        _send(60, _relay(1), signature);
        _topUp(_relay(2));
        assertEq(_lease(_no).fundedSeconds, 4320);
    }

    /// @dev Withdrawals and top-ups share one row of numbers.
    function test_number_of_a_withdrawal_is_taken() public {
        bytes memory signature = _sign(buyerKey, TypedData.withdraw(buyer, stranger, 1e18, _relay(1)));
        escrow.withdrawBySignature(buyer, stranger, 1e18, _relay(1), signature);
        signature = _signTopUp(buyerKey, 60, _relay(1));
        _expectUsed(1);
        _send(60, _relay(1), signature);
    }

    function test_cancelled_calls_are_refused() public {
        vm.startPrank(buyer);
        escrow.cancel(buyer, Numbered.Calls, 7, false, "");
        escrow.cancel(buyer, Numbered.Calls, 5, true, "");
        vm.stopPrank();
        uint64[3] memory salts = [uint64(7), 5, 4];
        for (uint256 i = 0; i < 3; i++) {
            bytes memory signature = _signTopUp(buyerKey, 60, _relay(salts[i]));
            _expectUsed(salts[i]);
            _send(60, _relay(salts[i]), signature);
        }
        _topUp(_relay(6));
        _topUp(_relay(8));
    }

    /* REFUSED: THE LEASE AND THE MONEY */

    /// @dev No fee is paid for what did not happen, and the call can be sent later.
    function test_top_up_that_fails_costs_nothing() public {
        bytes memory signature = _signTopUp(buyerKey, 24 hours, _relay(1));
        _expect(IEscrowBase.DurationTooLong.selector, 24 hours, 25 hours);
        _send(24 hours, _relay(1), signature);
        bytes memory good = _signTopUp(buyerKey, 60, _relay(1));
        vm.prank(buyer);
        escrow.stop(_key(_no), false);
        _expectState(IEscrowBase.LeaseNotActive.selector, _no, LeaseState.Stopped);
        _send(60, _relay(1), good);
        assertEq(escrow.balanceOf(_relayer), 0);
        (bool used,) = escrow.saltState(buyer, Numbered.Calls, 1);
        assertFalse(used);
    }

    function test_balance_must_cover_time_and_fee() public {
        uint256 free = escrow.balanceOf(buyer);
        vm.prank(buyer);
        escrow.withdraw(buyer, free - MORE - FEE + 1);
        bytes memory signature = _signTopUp(buyerKey, 60, _relay(1));
        _expect(IEscrowBase.InsufficientBalance.selector, MORE - 1, MORE);
        _send(60, _relay(1), signature);
        vm.prank(buyer);
        escrow.withdraw(buyer, MORE);
        _expect(IEscrowBase.InsufficientBalance.selector, FEE - 1, FEE);
        _send(60, _relay(1), signature);
        _fund(buyer, MORE + 1);
        _send(60, _relay(1), signature);
        assertEq(escrow.balanceOf(buyer), 0);
    }

    /* TOPPED UP */

    function test_top_up_and_fee_are_exact() public {
        uint256 end = _lease(_no).end;
        uint256 free = escrow.balanceOf(buyer);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Relayed(buyer, _relayer, 1, FEE);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.ToppedUp(_no, buyer, provider, uint40(end + 60), MORE);
        _topUp(_relay(1));
        assertEq(_lease(_no).end, end + 60);
        assertEq(_lease(_no).locked, 2.5e18 + MORE);
        assertEq(escrow.balanceOf(buyer), free - MORE - FEE);
        assertEq(escrow.balanceOf(_relayer), FEE);
    }

    /// @dev The fee is the sender's, not the lease's: the bid's budget is for compute.
    function test_fee_is_not_of_the_bids_budget() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        (bid.budget, bid.salt) = (uint128(2.5e18 + MORE), 2);
        _no = escrow.open(_match(ask, bid));
        bytes memory signature = _signTopUp(buyerKey, 60, _relay(1));
        escrow.topUpBySignature(ask, bid, TypedData.hash(ask.floor), 0, 60, _relay(1), signature);
        assertEq(_lease(_no).locked, bid.budget);
    }

    function testFuzz_every_atom_is_accounted_for(uint16 seconds_, uint96 fee, uint64 salt) public {
        seconds_ = uint16(bound(seconds_, 1, type(uint16).max));
        fee = uint96(bound(fee, 0, 1000e18));
        uint256 before = escrow.balanceOf(buyer) + _lease(_no).locked;
        Relay memory relay = Relay(salt, uint40(block.timestamp), _relayer, fee);
        _send(seconds_, relay, _signTopUp(buyerKey, seconds_, relay));
        assertEq(_lease(_no).locked, (uint256(2.5e18) * (uint256(seconds_) + 3600) + 3599) / 3600);
        assertEq(escrow.balanceOf(buyer) + _lease(_no).locked + fee, before);
        assertEq(escrow.balanceOf(_relayer), fee);
    }

    /* CONTRACT ACCOUNTS */

    function test_wallet_tops_up_by_its_owners_signature() public {
        address wallet = address(new OwnedWallet(buyer));
        _fund(wallet, FUNDS);
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        bid.buyer = wallet;
        _no = escrow.open(_match(ask, bid));
        buyer = wallet;
        bytes memory wrong = _signTopUp(providerKey, 60, _relay(1));
        _expect(IEscrowBase.InvalidSignature.selector, wallet);
        _send(60, _relay(1), wrong);
        _topUp(_relay(1));
        assertEq(_lease(_no).fundedSeconds, 4260);
        assertEq(escrow.balanceOf(_relayer), FEE);
    }

    function test_bad_wallets_top_up_nothing() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        for (uint256 kind = 0; kind <= uint256(type(BadWallet.Kind).max); kind++) {
            bid.buyer = address(new BadWallet(BadWallet.Kind(kind)));
            bytes32 pricesHash = TypedData.hash(ask.floor);
            bytes32 structHash = TypedData.topUp(bid.buyer, provider, _leaseNo(ask, bid), 60, _relay(1));
            bytes memory signature = _sign(buyerKey, structHash);
            if (kind == uint256(BadWallet.Kind.BurnsGas)) vm.expectRevert(); // out of gas, or as below: both refuse
            else _expect(IEscrowBase.InvalidSignature.selector, bid.buyer);
            escrow.topUpBySignature{gas: 3_000_000}(ask, bid, pricesHash, 0, 60, _relay(1), signature);
        }
    }
}
