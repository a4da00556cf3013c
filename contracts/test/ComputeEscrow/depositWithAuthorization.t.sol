// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";
import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";

import {ComputeToken} from "../../src/ComputeToken.sol";
import {IEscrowBase} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {CallbackToken, PlainToken} from "../support/Tokens.sol";

/// @notice Deposits by EIP-3009, signed by the owner and brought by a stranger.
contract DepositWithAuthorizationTest is EscrowTest {
    uint256 private constant AMOUNT = 5e18;
    bytes32 private constant NONCE = keccak256("random");
    string private constant RECEIVE =
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)";
    string private constant TRANSFER =
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)";

    address private _owner;
    uint256 private _ownerKey;
    address private _to;
    string private _type = RECEIVE;
    uint256 private _validAfter;
    uint256 private _validBefore = type(uint256).max;

    function setUp() public override {
        super.setUp();
        (_owner, _ownerKey) = makeAddrAndKey("owner");
        token.transfer(_owner, AMOUNT);
        _to = address(escrow);
    }

    function _authorize(uint256 amount, bytes32 nonce) private view returns (uint8, bytes32, bytes32) {
        bytes32 typeHash = keccak256(bytes(_type));
        bytes32 structHash = keccak256(abi.encode(typeHash, _owner, _to, amount, _validAfter, _validBefore, nonce));
        return vm.sign(_ownerKey, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash)));
    }

    /// @dev Deposits as a stranger what the owner signed.
    function _deposit(uint256 amount, bytes32 nonce) private {
        (uint8 v, bytes32 r, bytes32 s) = _authorize(amount, nonce);
        vm.prank(stranger);
        escrow.depositWithAuthorization(_owner, amount, _validAfter, _validBefore, nonce, v, r, s);
    }

    function _expectRefused() private {
        vm.expectRevert(ERC3009.ERC3009InvalidSignature.selector);
    }

    /* REFUSED */

    function test_deposit_of_nothing_reverts() public {
        (uint8 v, bytes32 r, bytes32 s) = _authorize(0, NONCE);
        vm.expectRevert(IEscrowBase.ZeroAmount.selector);
        escrow.depositWithAuthorization(_owner, 0, _validAfter, _validBefore, NONCE, v, r, s);
    }

    function test_change_of_any_member_reverts() public {
        _validBefore = block.timestamp + 100;
        (uint8 v, bytes32 r, bytes32 s) = _authorize(AMOUNT - 1, NONCE);
        _expectRefused();
        escrow.depositWithAuthorization(stranger, AMOUNT - 1, 0, _validBefore, NONCE, v, r, s);
        _expectRefused();
        escrow.depositWithAuthorization(_owner, AMOUNT, 0, _validBefore, NONCE, v, r, s);
        _expectRefused();
        escrow.depositWithAuthorization(_owner, AMOUNT - 1, 1, _validBefore, NONCE, v, r, s);
        _expectRefused();
        escrow.depositWithAuthorization(_owner, AMOUNT - 1, 0, _validBefore + 1, NONCE, v, r, s);
        _expectRefused();
        escrow.depositWithAuthorization(_owner, AMOUNT - 1, 0, _validBefore, bytes32(0), v, r, s);
        escrow.depositWithAuthorization(_owner, AMOUNT - 1, 0, _validBefore, NONCE, v, r, s);
    }

    function test_authorization_for_another_receiver_reverts() public {
        _to = stranger;
        (uint8 v, bytes32 r, bytes32 s) = _authorize(AMOUNT, NONCE);
        _expectRefused();
        escrow.depositWithAuthorization(_owner, AMOUNT, 0, _validBefore, NONCE, v, r, s);
    }

    function test_authorization_for_another_escrow_reverts() public {
        _to = address(_newEscrow(address(token), FEE_BPS));
        (uint8 v, bytes32 r, bytes32 s) = _authorize(AMOUNT, NONCE);
        _expectRefused();
        escrow.depositWithAuthorization(_owner, AMOUNT, 0, _validBefore, NONCE, v, r, s);
    }

    /// @dev Only a receiver's own call credits the sender of the money; a transfer that anyone may make does not.
    function test_authorization_to_transfer_is_none_to_receive() public {
        _type = TRANSFER;
        (uint8 v, bytes32 r, bytes32 s) = _authorize(AMOUNT, NONCE);
        _expectRefused();
        escrow.depositWithAuthorization(_owner, AMOUNT, 0, _validBefore, NONCE, v, r, s);
    }

    function test_nobody_else_can_take_the_authorization() public {
        (uint8 v, bytes32 r, bytes32 s) = _authorize(AMOUNT, NONCE);
        vm.startPrank(stranger);
        vm.expectRevert();
        token.receiveWithAuthorization(_owner, address(escrow), AMOUNT, 0, _validBefore, NONCE, v, r, s);
        _expectRefused();
        token.transferWithAuthorization(_owner, address(escrow), AMOUNT, 0, _validBefore, NONCE, v, r, s);
        vm.stopPrank();
        _deposit(AMOUNT, NONCE);
        assertEq(escrow.balanceOf(_owner), AMOUNT);
    }

    function test_authorization_outside_its_time_reverts() public {
        (_validAfter, _validBefore) = (block.timestamp, block.timestamp + 2);
        (uint8 v, bytes32 r, bytes32 s) = _authorize(AMOUNT, NONCE);
        for (uint256 i = 0; i < 2; i++) {
            vm.warp(i == 0 ? _validAfter : _validBefore);
            vm.expectPartialRevert(ERC3009.ERC3009InvalidAuthorizationTime.selector);
            escrow.depositWithAuthorization(_owner, AMOUNT, _validAfter, _validBefore, NONCE, v, r, s);
        }
        vm.warp(_validAfter + 1);
        escrow.depositWithAuthorization(_owner, AMOUNT, _validAfter, _validBefore, NONCE, v, r, s);
    }

    function test_second_use_reverts() public {
        _deposit(AMOUNT / 2, NONCE);
        (uint8 v, bytes32 r, bytes32 s) = _authorize(AMOUNT / 2, NONCE);
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009UsedAuthorization.selector, _owner, NONCE));
        escrow.depositWithAuthorization(_owner, AMOUNT / 2, 0, _validBefore, NONCE, v, r, s);
        assertEq(escrow.balanceOf(_owner), AMOUNT / 2);
    }

    function test_more_than_the_owner_has_reverts() public {
        (uint8 v, bytes32 r, bytes32 s) = _authorize(AMOUNT + 1, NONCE);
        vm.expectRevert();
        escrow.depositWithAuthorization(_owner, AMOUNT + 1, 0, _validBefore, NONCE, v, r, s);
    }

    function test_holdings_beyond_96_bits_revert() public {
        uint256 most = type(uint96).max;
        deal(address(token), address(escrow), most - AMOUNT + 1);
        (uint8 v, bytes32 r, bytes32 s) = _authorize(AMOUNT, NONCE);
        _expect(IEscrowBase.HoldingsTooLarge.selector, most, most + 1);
        escrow.depositWithAuthorization(_owner, AMOUNT, 0, _validBefore, NONCE, v, r, s);
        deal(address(token), address(escrow), most - AMOUNT);
        escrow.depositWithAuthorization(_owner, AMOUNT, 0, _validBefore, NONCE, v, r, s);
    }

    function test_token_without_authorizations_reverts() public {
        PlainToken plain = new PlainToken(18);
        escrow = _newEscrow(address(plain), FEE_BPS);
        plain.mint(_owner, AMOUNT);
        vm.expectRevert();
        escrow.depositWithAuthorization(_owner, AMOUNT, 0, _validBefore, NONCE, 27, 0, 0);
    }

    /// @dev A token that says yes and moves nothing makes nobody rich.
    function test_token_that_moves_nothing_is_refused() public {
        vm.mockCall(
            address(token), abi.encodeWithSelector(ComputeToken(address(0)).receiveWithAuthorization.selector), ""
        );
        _expect(IEscrowBase.TransferMismatch.selector, FUNDS + AMOUNT, FUNDS);
        escrow.depositWithAuthorization(_owner, AMOUNT, 0, _validBefore, NONCE, 27, 0, 0);
    }

    /// @dev The extension's calls and the escrow's own share one guard.
    function test_deposit_inside_a_transfer_is_refused() public {
        CallbackToken calling = new CallbackToken();
        escrow = _newEscrow(address(calling), FEE_BPS);
        calling.mint(buyer, AMOUNT);
        vm.startPrank(buyer);
        calling.approve(address(escrow), AMOUNT);
        escrow.deposit(AMOUNT);
        bytes[2] memory calls = [
            abi.encodeCall(
                escrow.depositWithAuthorization, (_owner, 1, 0, _validBefore, NONCE, 27, bytes32(0), bytes32(0))
            ),
            abi.encodeCall(escrow.depositWithPermit2, (_owner, 1, 0, _validBefore, ""))
        ];
        for (uint256 i = 0; i < 2; i++) {
            calling.onTransfer(address(escrow), calls[i]);
            escrow.withdraw(buyer, 1);
            assertFalse(calling.succeeded());
            assertEq(bytes4(calling.answer()), ReentrancyGuard.ReentrancyGuardReentrantCall.selector);
        }
    }

    /* DEPOSITED */

    function testFuzz_it_is_the_signers_balance_that_grows(uint256 amount, bytes32 nonce) public {
        amount = bound(amount, 1, AMOUNT);
        (uint8 v, bytes32 r, bytes32 s) = _authorize(amount, nonce);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Deposited(_owner, amount);
        vm.prank(stranger);
        escrow.depositWithAuthorization(_owner, amount, 0, _validBefore, nonce, v, r, s);
        assertEq(escrow.balanceOf(_owner), amount);
        assertEq(escrow.balanceOf(stranger), 0);
        assertEq(escrow.balanceOf(buyer), FUNDS);
        assertEq(token.balanceOf(_owner), AMOUNT - amount);
        assertEq(token.balanceOf(address(escrow)), FUNDS + amount);
        vm.prank(_owner);
        escrow.withdraw(_owner, amount);
    }

    function test_authorizations_are_used_in_any_order() public {
        _deposit(2e18, bytes32(uint256(2)));
        _deposit(1e18, bytes32(uint256(1)));
        assertEq(escrow.balanceOf(_owner), 3e18);
    }
}
