// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";

import {IEscrowBase} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {CallbackToken, FeeOnTransferToken} from "../support/Tokens.sol";

/// @notice depositFor: the sender pays, the account has it.
contract DepositForTest is EscrowTest {
    uint256 private constant AMOUNT = 5e18;

    address private _giver = makeAddr("giver");

    function setUp() public override {
        super.setUp();
        token.transfer(_giver, AMOUNT);
        vm.prank(_giver);
        token.approve(address(escrow), AMOUNT);
    }

    /* REFUSED */

    function test_deposit_for_nobody_reverts() public {
        _expect(IEscrowBase.InvalidRecipient.selector, address(0));
        vm.prank(_giver);
        escrow.depositFor(address(0), AMOUNT);
    }

    function test_the_escrow_itself_has_no_account() public {
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.InvalidRecipient.selector, address(escrow)));
        vm.prank(_giver);
        escrow.depositFor(address(escrow), AMOUNT);
    }

    function test_deposit_of_nothing_reverts() public {
        vm.expectRevert(IEscrowBase.ZeroAmount.selector);
        vm.prank(_giver);
        escrow.depositFor(buyer, 0);
    }

    /// @dev The account's approval is for deposits that it makes itself.
    function test_approval_of_the_account_is_not_the_senders() public {
        vm.expectRevert();
        vm.prank(stranger);
        escrow.depositFor(_giver, AMOUNT);
        assertEq(token.balanceOf(_giver), AMOUNT);
    }

    function test_fee_on_transfer_is_refused() public {
        FeeOnTransferToken taking = new FeeOnTransferToken();
        escrow = _newEscrow(address(taking), FEE_BPS);
        taking.mint(_giver, AMOUNT);
        vm.startPrank(_giver);
        taking.approve(address(escrow), AMOUNT);
        _expect(IEscrowBase.TransferMismatch.selector, AMOUNT, AMOUNT - AMOUNT / 100);
        escrow.depositFor(buyer, AMOUNT);
    }

    function test_reentrance_is_refused() public {
        CallbackToken calling = new CallbackToken();
        escrow = _newEscrow(address(calling), FEE_BPS);
        calling.mint(_giver, 2);
        calling.onTransfer(address(escrow), abi.encodeCall(escrow.depositFor, (stranger, 1)));
        vm.startPrank(_giver);
        calling.approve(address(escrow), 2);
        escrow.depositFor(buyer, 2);
        assertFalse(calling.succeeded());
        assertEq(bytes4(calling.answer()), ReentrancyGuard.ReentrancyGuardReentrantCall.selector);
        assertEq(escrow.balanceOf(buyer), 2);
        assertEq(escrow.balanceOf(stranger), 0);
    }

    /* DEPOSITED */

    function testFuzz_deposit_credits_the_account_alone(address account, uint256 amount) public {
        vm.assume(account != address(0) && account != buyer);
        amount = bound(amount, 1, AMOUNT);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Deposited(account, amount);
        vm.prank(_giver);
        escrow.depositFor(account, amount);
        assertEq(escrow.balanceOf(account), amount);
        if (account != _giver) assertEq(escrow.balanceOf(_giver), 0);
        assertEq(escrow.balanceOf(buyer), FUNDS);
        assertEq(token.balanceOf(_giver), AMOUNT - amount);
    }
}
