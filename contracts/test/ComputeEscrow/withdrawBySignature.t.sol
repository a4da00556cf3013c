// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";

import {IEscrowBase, Numbered, Relay} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {CallbackToken} from "../support/Tokens.sol";
import {TypedData} from "../support/TypedData.sol";
import {BadWallet, OwnedWallet} from "../support/Wallets.sol";

/// @notice withdrawBySignature: the account signs, anyone sends, for a fee out of the amount.
contract WithdrawBySignatureTest is EscrowTest {
    uint256 private constant AMOUNT = 5e18;
    uint96 private constant FEE = 0.1e18;

    address private _to = makeAddr("to");
    address private _relayer = makeAddr("relayer");

    /// @dev For anyone to send.
    function _relay(uint64 salt) private view returns (Relay memory) {
        return Relay(salt, uint40(block.timestamp + 100), address(0), FEE);
    }

    function _signWithdraw(uint256 key, address account, uint256 amount, Relay memory relay)
        private
        view
        returns (bytes memory)
    {
        return _sign(key, TypedData.withdraw(account, _to, amount, relay));
    }

    function _send(uint256 amount, Relay memory relay, bytes memory signature) private {
        vm.prank(_relayer);
        escrow.withdrawBySignature(buyer, _to, amount, relay, signature);
    }

    /// @dev Signed by the buyer and sent by the relayer.
    function _withdraw(uint256 amount, Relay memory relay) private {
        _send(amount, relay, _signWithdraw(buyerKey, buyer, amount, relay));
    }

    function _expectUsed(uint64 salt) private {
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.CallUsed.selector, buyer, salt));
    }

    /* REFUSED: SIGNATURE */

    function test_every_member_is_signed() public {
        Relay memory signed = _relay(1);
        bytes memory signature = _signWithdraw(buyerKey, buyer, AMOUNT, signed);
        for (uint256 i = 0; i < 7; i++) {
            (address account, address to, uint256 amount, Relay memory relay) = (buyer, _to, AMOUNT, _relay(1));
            if (i == 0) account = stranger;
            if (i == 1) to = _relayer;
            if (i == 2) amount++;
            if (i == 3) relay.salt++;
            if (i == 4) relay.deadline++;
            if (i == 5) relay.relayer = _relayer;
            if (i == 6) relay.fee++;
            _expect(IEscrowBase.InvalidSignature.selector, account);
            vm.prank(_relayer);
            escrow.withdrawBySignature(account, to, amount, relay, signature);
        }
        _send(AMOUNT, signed, signature);
    }

    function test_others_do_not_withdraw_for_an_account() public {
        uint256[3] memory keys = [providerKey, witnessKey, meterKey];
        for (uint256 i = 0; i < 3; i++) {
            bytes memory signature = _signWithdraw(keys[i], buyer, AMOUNT, _relay(1));
            _expect(IEscrowBase.InvalidSignature.selector, buyer);
            _send(AMOUNT, _relay(1), signature);
        }
        _expect(IEscrowBase.InvalidSignature.selector, buyer); // the account itself has `withdraw`
        vm.prank(buyer);
        escrow.withdrawBySignature(buyer, _to, AMOUNT, _relay(1), "");
    }

    function test_zero_account_signs_nothing() public {
        _expect(IEscrowBase.InvalidSignature.selector, address(0));
        escrow.withdrawBySignature(address(0), _to, AMOUNT, _relay(1), new bytes(65));
    }

    function test_signature_of_another_chain_or_contract_is_refused() public {
        bytes memory signature = _signWithdraw(buyerKey, buyer, AMOUNT, _relay(1));
        uint256 chainId = block.chainid;
        vm.chainId(chainId + 1);
        _expect(IEscrowBase.InvalidSignature.selector, buyer);
        _send(AMOUNT, _relay(1), signature);
        vm.chainId(chainId);
        escrow = _newEscrow(address(token), FEE_BPS);
        _fund(buyer, FUNDS);
        _expect(IEscrowBase.InvalidSignature.selector, buyer);
        _send(AMOUNT, _relay(1), signature);
    }

    /* REFUSED: RELAY */

    function test_call_after_its_deadline_is_refused() public {
        Relay memory relay = _relay(1);
        bytes memory signature = _signWithdraw(buyerKey, buyer, AMOUNT, relay);
        vm.warp(uint256(relay.deadline) + 1);
        _expect(IEscrowBase.SignatureExpired.selector, relay.deadline, uint256(relay.deadline) + 1);
        _send(AMOUNT, relay, signature);
        vm.warp(relay.deadline);
        _send(AMOUNT, relay, signature);
    }

    function test_only_the_named_relayer_sends() public {
        Relay memory relay = _relay(1);
        relay.relayer = _relayer;
        bytes memory signature = _signWithdraw(buyerKey, buyer, AMOUNT, relay);
        address[2] memory others = [stranger, buyer];
        for (uint256 i = 0; i < 2; i++) {
            vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotRelayer.selector, _relayer, others[i]));
            vm.prank(others[i]);
            escrow.withdrawBySignature(buyer, _to, AMOUNT, relay, signature);
        }
        _send(AMOUNT, relay, signature);
    }

    function test_call_is_sent_once() public {
        _withdraw(AMOUNT, _relay(1));
        bytes memory signature = _signWithdraw(buyerKey, buyer, AMOUNT, _relay(1));
        _expectUsed(1);
        _send(AMOUNT, _relay(1), signature);
        signature = _signWithdraw(buyerKey, buyer, 1e18, _relay(1)); // another call of the same number
        _expectUsed(1);
        _send(1e18, _relay(1), signature);
        (bool used, bool cancelled) = escrow.saltState(buyer, Numbered.Calls, 1);
        assertTrue(used);
        assertFalse(cancelled);
        _withdraw(AMOUNT, _relay(2));
    }

    function test_cancelled_call_is_refused() public {
        vm.prank(buyer);
        escrow.cancel(buyer, Numbered.Calls, 7, false, "");
        bytes memory signature = _signWithdraw(buyerKey, buyer, AMOUNT, _relay(7));
        _expectUsed(7);
        _send(AMOUNT, _relay(7), signature);
        _withdraw(AMOUNT, _relay(6));
        _withdraw(AMOUNT, _relay(8));
    }

    function test_call_cancelled_with_all_older_is_refused() public {
        vm.prank(buyer);
        escrow.cancel(buyer, Numbered.Calls, 7, true, "");
        for (uint64 salt = 5; salt < 8; salt++) {
            bytes memory signature = _signWithdraw(buyerKey, buyer, AMOUNT, _relay(salt));
            _expectUsed(salt);
            _send(AMOUNT, _relay(salt), signature);
        }
        _withdraw(AMOUNT, _relay(8));
    }

    /// @dev Calls and orders are numbered apart: neither takes the other's number, nor its cancellation.
    function test_order_of_the_same_number_is_untouched() public {
        _open(); // bid 1
        _withdraw(AMOUNT, _relay(1));
        _withdraw(AMOUNT, _relay(2));
        escrow.open(_match(_ask(), _bidOf(2)));
        vm.prank(buyer);
        escrow.cancel(buyer, Numbered.Orders, 100, true, "");
        _withdraw(AMOUNT, _relay(3));
    }

    /* REFUSED: AMOUNT */

    function test_fee_of_all_that_moves_is_refused() public {
        Relay memory relay = _relay(1);
        uint256[3] memory amounts = [uint256(FEE), FEE - 1, 0];
        for (uint256 i = 0; i < 3; i++) {
            bytes memory signature = _signWithdraw(buyerKey, buyer, amounts[i], relay);
            _expect(IEscrowBase.RelayFeeTooHigh.selector, amounts[i], FEE);
            _send(amounts[i], relay, signature);
        }
        relay.fee = 0;
        bytes memory nothing = _signWithdraw(buyerKey, buyer, 0, relay);
        _expect(IEscrowBase.RelayFeeTooHigh.selector, 0, 0);
        _send(0, relay, nothing);
        relay.fee = FEE;
        _withdraw(uint256(FEE) + 1, relay);
        assertEq(token.balanceOf(_to), 1);
        assertEq(escrow.balanceOf(_relayer), FEE);
    }

    function test_more_than_is_free_is_refused() public {
        bytes memory signature = _signWithdraw(buyerKey, buyer, FUNDS + 1, _relay(1));
        _expect(IEscrowBase.InsufficientBalance.selector, FUNDS - FEE, FUNDS + 1 - FEE);
        _send(FUNDS + 1, _relay(1), signature);
        assertEq(escrow.balanceOf(_relayer), 0, "nor is a fee");
        (bool used,) = escrow.saltState(buyer, Numbered.Calls, 1);
        assertFalse(used);
        _withdraw(FUNDS, _relay(1));
        assertEq(escrow.balanceOf(buyer), 0);
    }

    function test_withdraw_to_nobody_or_the_escrow_reverts() public {
        address[2] memory wrong = [address(0), address(escrow)];
        for (uint256 i = 0; i < 2; i++) {
            _to = wrong[i];
            bytes memory signature = _signWithdraw(buyerKey, buyer, AMOUNT, _relay(1));
            _expect(IEscrowBase.InvalidRecipient.selector, wrong[i]);
            _send(AMOUNT, _relay(1), signature);
        }
    }

    /* WITHDRAWN */

    function test_withdrawal_and_fee_are_exact() public {
        Relay memory relay = _relay(1);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Relayed(buyer, _relayer, 1, FEE);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Withdrawn(buyer, _to, AMOUNT - FEE);
        _withdraw(AMOUNT, relay);
        assertEq(token.balanceOf(_to), AMOUNT - FEE);
        assertEq(escrow.balanceOf(_relayer), FEE);
        assertEq(escrow.balanceOf(buyer), FUNDS - AMOUNT);
        assertEq(token.balanceOf(address(escrow)), FUNDS - AMOUNT + FEE);
    }

    function test_account_may_send_its_own_call() public {
        bytes memory signature = _signWithdraw(buyerKey, buyer, AMOUNT, _relay(1));
        vm.prank(buyer);
        escrow.withdrawBySignature(buyer, _to, AMOUNT, _relay(1), signature);
        assertEq(escrow.balanceOf(buyer), FUNDS - AMOUNT + FEE, "it paid itself");
    }

    function testFuzz_every_atom_is_accounted_for(uint256 amount, uint96 fee, uint64 salt) public {
        amount = bound(amount, 1, FUNDS);
        fee = uint96(bound(fee, 0, amount - 1));
        _withdraw(amount, Relay(salt, uint40(block.timestamp), _relayer, fee));
        assertEq(token.balanceOf(_to), amount - fee);
        assertEq(escrow.balanceOf(_relayer), fee);
        assertEq(escrow.balanceOf(buyer), FUNDS - amount);
    }

    /* CONTRACT ACCOUNTS AND TOKENS */

    function test_wallet_withdraws_by_its_owners_signature() public {
        address wallet = address(new OwnedWallet(buyer));
        _fund(wallet, AMOUNT);
        bytes memory wrong = _signWithdraw(providerKey, wallet, AMOUNT, _relay(1));
        _expect(IEscrowBase.InvalidSignature.selector, wallet);
        escrow.withdrawBySignature(wallet, _to, AMOUNT, _relay(1), wrong);
        bytes memory signature = _signWithdraw(buyerKey, wallet, AMOUNT, _relay(1));
        escrow.withdrawBySignature(wallet, _to, AMOUNT, _relay(1), signature);
        assertEq(token.balanceOf(_to), AMOUNT - FEE);
        assertEq(escrow.balanceOf(buyer), FUNDS, "the owner's own is untouched");
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.CallUsed.selector, wallet, 1));
        escrow.withdrawBySignature(wallet, _to, AMOUNT, _relay(1), signature);
    }

    function test_bad_wallets_withdraw_nothing() public {
        for (uint256 kind = 0; kind <= uint256(type(BadWallet.Kind).max); kind++) {
            address wallet = address(new BadWallet(BadWallet.Kind(kind)));
            _fund(wallet, AMOUNT);
            bytes memory signature = _signWithdraw(buyerKey, wallet, AMOUNT, _relay(1));
            if (kind == uint256(BadWallet.Kind.BurnsGas)) vm.expectRevert(); // out of gas, or as below: both refuse
            else _expect(IEscrowBase.InvalidSignature.selector, wallet);
            escrow.withdrawBySignature{gas: 3_000_000}(wallet, _to, AMOUNT, _relay(1), signature);
            assertEq(escrow.balanceOf(wallet), AMOUNT);
        }
    }

    function test_reentrance_is_refused() public {
        CallbackToken calling = new CallbackToken();
        escrow = _newEscrow(address(calling), FEE_BPS);
        calling.mint(buyer, FUNDS);
        vm.startPrank(buyer);
        calling.approve(address(escrow), FUNDS);
        escrow.deposit(FUNDS);
        vm.stopPrank();
        Relay[2] memory relays = [_relay(1), _relay(2)];
        bytes[2] memory calls;
        for (uint256 i = 0; i < 2; i++) {
            bytes memory signature = _signWithdraw(buyerKey, buyer, AMOUNT, relays[i]);
            calls[i] = abi.encodeCall(escrow.withdrawBySignature, (buyer, _to, AMOUNT, relays[i], signature));
        }
        for (uint256 i = 0; i < 2; i++) {
            calling.onTransfer(address(escrow), calls[1 - i]); // first the other call, then the same one
            if (i == 1) calling.onTransfer(address(escrow), calls[1]);
            (bool ok,) = address(escrow).call(calls[i]);
            assertTrue(ok);
            assertTrue(calling.calledBack());
            assertFalse(calling.succeeded());
            assertEq(bytes4(calling.answer()), ReentrancyGuard.ReentrancyGuardReentrantCall.selector);
        }
        assertEq(calling.balanceOf(_to), 2 * (AMOUNT - FEE));
        assertEq(escrow.balanceOf(buyer), FUNDS - 2 * AMOUNT);
        assertEq(calling.balanceOf(address(escrow)), FUNDS - 2 * (AMOUNT - FEE));
    }
}
