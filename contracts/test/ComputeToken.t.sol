// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

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
}
