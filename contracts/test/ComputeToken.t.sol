// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";
import {IERC3009, IERC3009Cancel} from "@openzeppelin/contracts/interfaces/draft-IERC3009.sol";
import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {Test} from "forge-std/Test.sol";

import {ComputeToken} from "../src/ComputeToken.sol";

contract ComputeTokenTest is Test {
    uint256 private constant SUPPLY = 1_000_000e18;

    address private _holder = makeAddr("holder");
    ComputeToken private _token = new ComputeToken(_holder, SUPPLY);

    function test_metadata() public view {
        assertEq(_token.name(), "Coulomb Compute");
        assertEq(_token.symbol(), "CMP");
        assertEq(_token.decimals(), 18);
    }

    function test_whole_supply_goes_to_the_holder() public view {
        assertEq(_token.totalSupply(), SUPPLY);
        assertEq(_token.balanceOf(_holder), SUPPLY);
    }

    function testFuzz_permit_sets_the_allowance_once(uint256 amount, uint64 deadline) public {
        (address owner, uint256 key) = makeAddrAndKey("owner");
        vm.warp(deadline);
        bytes32 typeHash =
            keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 structHash = keccak256(abi.encode(typeHash, owner, _holder, amount, 0, deadline));
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", _token.DOMAIN_SEPARATOR(), structHash));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        _token.permit(owner, _holder, amount, deadline, v, r, s);
        assertEq(_token.allowance(owner, _holder), amount);
        vm.expectRevert();
        _token.permit(owner, _holder, amount, deadline, v, r, s);
    }

    /* EIP-3009 */

    string private constant MEMBERS =
        "(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)";

    address private _to = makeAddr("to");
    uint256 private _validAfter = 1000;
    uint256 private _validBefore = 2000;

    /// @dev An account with tokens and its key; the time is within the authorizations'.
    function _payer() private returns (address from, uint256 key) {
        (from, key) = makeAddrAndKey("from");
        vm.prank(_holder);
        _token.transfer(from, 10e18);
        vm.warp(1500);
    }

    function _signed(uint256 key, bytes32 structHash) private view returns (uint8, bytes32, bytes32) {
        return vm.sign(key, keccak256(abi.encodePacked(hex"1901", _token.DOMAIN_SEPARATOR(), structHash)));
    }

    function _authorized(string memory name, uint256 key, uint256 value, bytes32 nonce)
        private
        view
        returns (uint8, bytes32, bytes32)
    {
        bytes32 typeHash = keccak256(abi.encodePacked(name, MEMBERS));
        return _signed(key, keccak256(abi.encode(typeHash, vm.addr(key), _to, value, _validAfter, _validBefore, nonce)));
    }

    function testFuzz_receiver_takes_what_was_authorized_once(uint256 value, bytes32 nonce) public {
        (address from, uint256 key) = _payer();
        value = bound(value, 0, 10e18);
        (uint8 v, bytes32 r, bytes32 s) = _authorized("ReceiveWithAuthorization", key, value, nonce);
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InvalidReceiver.selector, _to));
        _token.receiveWithAuthorization(from, _to, value, _validAfter, _validBefore, nonce, v, r, s);
        assertFalse(_token.authorizationState(from, nonce));

        vm.startPrank(_to);
        vm.expectEmit(address(_token));
        emit IERC3009.AuthorizationUsed(from, nonce);
        _token.receiveWithAuthorization(from, _to, value, _validAfter, _validBefore, nonce, v, r, s);
        assertEq(_token.balanceOf(_to), value);
        assertEq(_token.balanceOf(from), 10e18 - value);
        assertTrue(_token.authorizationState(from, nonce));
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009UsedAuthorization.selector, from, nonce));
        _token.receiveWithAuthorization(from, _to, value, _validAfter, _validBefore, nonce, v, r, s);
    }

    function test_anyone_makes_an_authorized_transfer() public {
        (address from, uint256 key) = _payer();
        (uint8 v, bytes32 r, bytes32 s) = _authorized("TransferWithAuthorization", key, 1e18, "nonce");
        _token.transferWithAuthorization(from, _to, 1e18, _validAfter, _validBefore, "nonce", v, r, s);
        assertEq(_token.balanceOf(_to), 1e18);
    }

    function test_authorization_by_another_key_reverts() public {
        (address from,) = _payer();
        (, uint256 other) = makeAddrAndKey("other");
        (uint8 v, bytes32 r, bytes32 s) = _authorized("ReceiveWithAuthorization", other, 1e18, "nonce");
        vm.expectRevert(ERC3009.ERC3009InvalidSignature.selector);
        vm.prank(_to);
        _token.receiveWithAuthorization(from, _to, 1e18, _validAfter, _validBefore, "nonce", v, r, s);
    }

    /// @dev Both bounds are exclusive, as in the EIP.
    function testFuzz_authorization_is_good_between_its_bounds_alone(uint16 time) public {
        (address from, uint256 key) = _payer();
        (uint8 v, bytes32 r, bytes32 s) = _authorized("ReceiveWithAuthorization", key, 1e18, "nonce");
        vm.warp(bound(time, 990, 2010));
        bool good = block.timestamp > _validAfter && block.timestamp < _validBefore;
        if (!good) {
            vm.expectRevert(
                abi.encodeWithSelector(ERC3009.ERC3009InvalidAuthorizationTime.selector, _validAfter, _validBefore)
            );
        }
        vm.prank(_to);
        _token.receiveWithAuthorization(from, _to, 1e18, _validAfter, _validBefore, "nonce", v, r, s);
        assertEq(_token.balanceOf(_to), good ? 1e18 : 0);
    }

    function test_cancelled_authorization_reverts() public {
        (address from, uint256 key) = _payer();
        bytes32 typeHash = keccak256("CancelAuthorization(address authorizer,bytes32 nonce)");
        (uint8 v, bytes32 r, bytes32 s) = _signed(key, keccak256(abi.encode(typeHash, from, bytes32("nonce"))));
        vm.expectEmit(address(_token));
        emit IERC3009Cancel.AuthorizationCanceled(from, "nonce");
        _token.cancelAuthorization(from, "nonce", v, r, s);
        (v, r, s) = _authorized("ReceiveWithAuthorization", key, 1e18, "nonce");
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009UsedAuthorization.selector, from, bytes32("nonce")));
        vm.prank(_to);
        _token.receiveWithAuthorization(from, _to, 1e18, _validAfter, _validBefore, "nonce", v, r, s);
    }
}
