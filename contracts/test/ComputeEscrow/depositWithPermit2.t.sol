// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowBase} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {Permit2} from "../support/Permit2.sol";
import {FeeOnTransferToken, PlainToken} from "../support/Tokens.sol";
import {BadWallet, OwnedWallet} from "../support/Wallets.sol";

/// @notice Deposits by the real Permit2, signed by the owner and brought by a stranger.
contract DepositWithPermit2Test is EscrowTest {
    uint256 private constant AMOUNT = 5e18;
    string private constant TOKENS = "TokenPermissions(address token,uint256 amount)";
    string private constant TRANSFER =
        "PermitTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline)";

    // Errors of Permit2, as its source names them.
    error InvalidSigner();
    error SignatureExpired(uint256 signatureDeadline);
    error InvalidNonce();

    address private _owner;
    uint256 private _ownerKey;
    address private _spender;
    address private _token;
    uint256 private _deadline;

    function setUp() public override {
        super.setUp();
        Permit2.deploy();
        (_owner, _ownerKey) = makeAddrAndKey("owner");
        token.transfer(_owner, AMOUNT);
        vm.prank(_owner);
        token.approve(Permit2.AT, type(uint256).max);
        (_spender, _token, _deadline) = (address(escrow), address(token), block.timestamp);
    }

    function _permit(uint256 amount, uint256 nonce) private view returns (bytes memory) {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,uint256 chainId,address verifyingContract)"),
                keccak256("Permit2"),
                block.chainid,
                Permit2.AT
            )
        );
        bytes32 permitted = keccak256(abi.encode(keccak256(bytes(TOKENS)), _token, amount));
        bytes32 typeHash = keccak256(abi.encodePacked(TRANSFER, TOKENS));
        bytes32 structHash = keccak256(abi.encode(typeHash, permitted, _spender, nonce, _deadline));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(_ownerKey, keccak256(abi.encodePacked(hex"1901", domain, structHash)));
        return abi.encodePacked(r, s, v);
    }

    /// @dev Deposits as a stranger what the owner signed.
    function _deposit(uint256 amount, uint256 nonce) private {
        bytes memory signature = _permit(amount, nonce);
        vm.prank(stranger);
        escrow.depositWithPermit2(_owner, amount, nonce, _deadline, signature);
    }

    /// @dev Its address is the hash of its code, so this is what stands there on every chain.
    function test_permit2_is_the_real_one() public view {
        bytes32 hash = keccak256(Permit2.creationCode());
        assertEq(vm.computeCreate2Address(Permit2.SALT, hash, Permit2.DEPLOYER), Permit2.AT);
    }

    /* REFUSED */

    function test_deposit_of_nothing_reverts() public {
        bytes memory signature = _permit(0, 0);
        vm.expectRevert(IEscrowBase.ZeroAmount.selector);
        escrow.depositWithPermit2(_owner, 0, 0, _deadline, signature);
    }

    function test_change_of_any_member_reverts() public {
        bytes memory signature = _permit(AMOUNT - 1, 7);
        vm.startPrank(stranger);
        vm.expectRevert(InvalidSigner.selector);
        escrow.depositWithPermit2(stranger, AMOUNT - 1, 7, _deadline, signature);
        vm.expectRevert(InvalidSigner.selector);
        escrow.depositWithPermit2(_owner, AMOUNT, 7, _deadline, signature);
        vm.expectRevert(InvalidSigner.selector);
        escrow.depositWithPermit2(_owner, AMOUNT - 1, 8, _deadline, signature);
        vm.expectRevert(InvalidSigner.selector);
        escrow.depositWithPermit2(_owner, AMOUNT - 1, 7, _deadline + 1, signature);
        escrow.depositWithPermit2(_owner, AMOUNT - 1, 7, _deadline, signature);
    }

    function test_permit_for_another_spender_reverts() public {
        _spender = stranger;
        bytes memory signature = _permit(AMOUNT, 0);
        vm.expectRevert(InvalidSigner.selector);
        escrow.depositWithPermit2(_owner, AMOUNT, 0, _deadline, signature);
        _spender = escrow.extension(); // whose code makes the call, but not as itself
        signature = _permit(AMOUNT, 0);
        vm.expectRevert(InvalidSigner.selector);
        escrow.depositWithPermit2(_owner, AMOUNT, 0, _deadline, signature);
    }

    function test_permit_of_another_token_reverts() public {
        _token = address(new PlainToken(18));
        bytes memory signature = _permit(AMOUNT, 0);
        vm.expectRevert(InvalidSigner.selector);
        escrow.depositWithPermit2(_owner, AMOUNT, 0, _deadline, signature);
    }

    function test_permit_of_another_chain_reverts() public {
        bytes memory signature = _permit(AMOUNT, 0);
        vm.chainId(block.chainid + 1);
        vm.expectRevert(InvalidSigner.selector);
        escrow.depositWithPermit2(_owner, AMOUNT, 0, _deadline, signature);
    }

    function test_expired_permit_reverts() public {
        bytes memory signature = _permit(AMOUNT, 0);
        vm.warp(_deadline + 1);
        vm.expectRevert(abi.encodeWithSelector(SignatureExpired.selector, _deadline));
        escrow.depositWithPermit2(_owner, AMOUNT, 0, _deadline, signature);
    }

    function test_second_use_reverts() public {
        _deposit(AMOUNT / 2, 0);
        bytes memory signature = _permit(AMOUNT / 2, 0);
        vm.expectRevert(InvalidNonce.selector);
        escrow.depositWithPermit2(_owner, AMOUNT / 2, 0, _deadline, signature);
        assertEq(escrow.balanceOf(_owner), AMOUNT / 2);
    }

    function test_owner_that_did_not_approve_permit2_reverts() public {
        vm.prank(_owner);
        token.approve(Permit2.AT, AMOUNT - 1);
        bytes memory signature = _permit(AMOUNT, 0);
        vm.expectRevert();
        escrow.depositWithPermit2(_owner, AMOUNT, 0, _deadline, signature);
    }

    function test_chain_without_permit2_reverts() public {
        vm.etch(Permit2.AT, "");
        bytes memory signature = _permit(AMOUNT, 0);
        vm.expectRevert();
        escrow.depositWithPermit2(_owner, AMOUNT, 0, _deadline, signature);
    }

    function test_fee_on_transfer_is_refused() public {
        FeeOnTransferToken taking = new FeeOnTransferToken();
        escrow = _newEscrow(address(taking), FEE_BPS);
        taking.mint(_owner, AMOUNT);
        vm.prank(_owner);
        taking.approve(Permit2.AT, AMOUNT);
        (_spender, _token) = (address(escrow), address(taking));
        bytes memory signature = _permit(AMOUNT, 0);
        _expect(IEscrowBase.TransferMismatch.selector, AMOUNT, AMOUNT - AMOUNT / 100);
        escrow.depositWithPermit2(_owner, AMOUNT, 0, _deadline, signature);
    }

    function test_holdings_beyond_96_bits_revert() public {
        uint256 most = type(uint96).max;
        deal(address(token), address(escrow), most - AMOUNT + 1);
        bytes memory signature = _permit(AMOUNT, 0);
        _expect(IEscrowBase.HoldingsTooLarge.selector, most, most + 1);
        escrow.depositWithPermit2(_owner, AMOUNT, 0, _deadline, signature);
        deal(address(token), address(escrow), most - AMOUNT);
        escrow.depositWithPermit2(_owner, AMOUNT, 0, _deadline, signature);
    }

    function test_bad_wallets_are_refused() public {
        bytes memory signature = _permit(AMOUNT, 0);
        for (uint256 kind = 0; kind <= uint256(type(BadWallet.Kind).max); kind++) {
            address wallet = address(new BadWallet(BadWallet.Kind(kind)));
            token.transfer(wallet, AMOUNT);
            vm.prank(wallet);
            token.approve(Permit2.AT, AMOUNT);
            vm.expectRevert();
            escrow.depositWithPermit2{gas: 3_000_000}(wallet, AMOUNT, 0, _deadline, signature);
            assertEq(escrow.balanceOf(wallet), 0);
        }
    }

    /* DEPOSITED */

    function testFuzz_it_is_the_signers_balance_that_grows(uint256 amount, uint256 nonce) public {
        amount = bound(amount, 1, AMOUNT);
        bytes memory signature = _permit(amount, nonce);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Deposited(_owner, amount);
        vm.prank(stranger);
        escrow.depositWithPermit2(_owner, amount, nonce, _deadline, signature);
        assertEq(escrow.balanceOf(_owner), amount);
        assertEq(escrow.balanceOf(stranger), 0);
        assertEq(escrow.balanceOf(buyer), FUNDS);
        assertEq(token.balanceOf(_owner), AMOUNT - amount);
        assertEq(token.balanceOf(address(escrow)), FUNDS + amount);
        vm.prank(_owner);
        escrow.withdraw(_owner, amount);
    }

    function test_permits_are_used_in_any_order() public {
        _deposit(1e18, 300);
        _deposit(1e18, 2);
        _deposit(1e18, 1);
        assertEq(escrow.balanceOf(_owner), 3e18);
    }

    function test_wallet_deposits_by_its_owners_signature() public {
        OwnedWallet wallet = new OwnedWallet(_owner);
        token.transfer(address(wallet), AMOUNT);
        vm.prank(address(wallet));
        token.approve(Permit2.AT, AMOUNT);
        bytes memory signature = _permit(AMOUNT, 0);
        escrow.depositWithPermit2(address(wallet), AMOUNT, 0, _deadline, signature);
        assertEq(escrow.balanceOf(address(wallet)), AMOUNT);
    }
}
