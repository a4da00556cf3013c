// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC5267} from "@openzeppelin/contracts/interfaces/IERC5267.sol";

import {IComputeEscrow, IEscrowBase, Terms} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {newEscrow, newExtension} from "../support/Shipped.sol";
import {PlainToken} from "../support/Tokens.sol";
import {TypedData} from "../support/TypedData.sol";

contract ConstructorTest is EscrowTest {
    /// @dev Terms that are refused: by the extension, and by an escrow on any extension.
    function _refuse(Terms memory terms, bytes memory error) private {
        vm.expectRevert(error);
        newExtension(vm, terms);
        address extension = escrow.extension();
        vm.expectRevert(error);
        newEscrow(vm, terms, extension);
    }

    function _deploy(address token_, uint256 feeBps, address recipient, uint256 window)
        private
        returns (IComputeEscrow)
    {
        return newEscrow(vm, Terms(token_, feeBps, recipient, window));
    }

    /* REFUSED */

    function test_token_without_code_reverts() public {
        bytes memory error = abi.encodeWithSelector(IEscrowBase.TokenWithoutCode.selector, stranger);
        _refuse(Terms(stranger, 0, address(0), SETTLE_WINDOW), error);
    }

    function test_too_many_decimals_revert() public {
        address token_ = address(new PlainToken(19));
        bytes memory error = abi.encodeWithSelector(IEscrowBase.DecimalsTooMany.selector, 18, 19);
        _refuse(Terms(token_, 0, address(0), SETTLE_WINDOW), error);
    }

    function test_fee_above_the_constant_reverts() public {
        bytes memory error = abi.encodeWithSelector(IEscrowBase.FeeTooHigh.selector, 1000, 1001);
        _refuse(Terms(address(token), 1001, feeRecipient, SETTLE_WINDOW), error);
    }

    function test_fee_for_nobody_reverts() public {
        bytes memory error = abi.encodeWithSelector(IEscrowBase.FeeRecipientMissing.selector, 1);
        _refuse(Terms(address(token), 1, address(0), SETTLE_WINDOW), error);
    }

    function test_window_out_of_bounds_reverts() public {
        uint256[2] memory wrong = [uint256(1 minutes - 1), 30 days + 1];
        for (uint256 i = 0; i < 2; i++) {
            bytes memory error =
                abi.encodeWithSelector(IEscrowBase.WindowOutOfBounds.selector, 1 minutes, 30 days, wrong[i]);
            _refuse(Terms(address(token), 0, address(0), wrong[i]), error);
        }
    }

    /* THE EXTENSION */

    function _refuseExtension(Terms memory terms, address extension) private {
        _expect(IEscrowBase.TermsDiffer.selector, extension);
        newEscrow(vm, terms, extension);
    }

    function test_extension_without_code_reverts() public {
        Terms memory terms = Terms(address(token), FEE_BPS, feeRecipient, SETTLE_WINDOW);
        _refuseExtension(terms, address(0));
        _refuseExtension(terms, stranger);
    }

    function test_extension_of_other_terms_reverts() public {
        address other = address(new PlainToken(18));
        address extension = escrow.extension();
        _refuseExtension(Terms(other, FEE_BPS, feeRecipient, SETTLE_WINDOW), extension);
        _refuseExtension(Terms(address(token), FEE_BPS + 1, feeRecipient, SETTLE_WINDOW), extension);
        _refuseExtension(Terms(address(token), FEE_BPS, stranger, SETTLE_WINDOW), extension);
        _refuseExtension(Terms(address(token), FEE_BPS, feeRecipient, SETTLE_WINDOW + 1), extension);
        newEscrow(vm, Terms(address(token), FEE_BPS, feeRecipient, SETTLE_WINDOW), extension);
    }

    /// @dev A contract that answers no terms is not an extension.
    function test_extension_that_names_no_terms_reverts() public {
        address token_ = address(token);
        vm.expectRevert();
        newEscrow(vm, Terms(token_, FEE_BPS, feeRecipient, SETTLE_WINDOW), token_);
    }

    function test_extension_is_the_one_that_was_named() public {
        Terms memory terms = Terms(address(token), FEE_BPS, feeRecipient, SETTLE_WINDOW);
        address extension = newExtension(vm, terms);
        assertEq(newEscrow(vm, terms, extension).extension(), extension);
        assertEq(abi.encode(escrow.terms()), abi.encode(terms));
        assertEq(abi.encode(IComputeEscrow(extension).terms()), abi.encode(terms));
    }

    /* TERMS */

    function test_terms_are_readable_and_bounds_inclusive() public {
        IComputeEscrow other = _deploy(address(token), 1000, feeRecipient, 1 minutes);
        assertEq(other.token(), address(token));
        assertEq(other.feeBps(), 1000);
        assertEq(other.feeRecipient(), feeRecipient);
        assertEq(other.settleWindow(), 1 minutes);
        assertEq(_deploy(address(token), 1000, feeRecipient, 30 days).settleWindow(), 30 days);
    }

    function test_no_fee_needs_no_recipient() public {
        assertEq(_deploy(address(token), 0, address(0), SETTLE_WINDOW).feeRecipient(), address(0));
    }

    function test_domain_names_chain_and_contract() public view {
        assertEq(escrow.domainSeparator(), TypedData.domain(block.chainid, address(escrow)));
        (, string memory name, string memory version, uint256 chainId, address verifier,,) =
            IERC5267(address(escrow)).eip712Domain();
        assertEq(name, "Coulomb");
        assertEq(version, "1");
        assertEq(chainId, block.chainid);
        assertEq(verifier, address(escrow));
    }

    function test_domain_follows_the_chain_id() public {
        vm.chainId(424_242);
        assertEq(escrow.domainSeparator(), TypedData.domain(424_242, address(escrow)));
    }

    /* SIZE */

    /// @dev Ethereum's limits are 24,576 bytes (EIP-170) and 49,152 (EIP-3860): the first with a margin.
    function test_contracts_fit_the_size_limits() public view {
        assertLe(address(escrow).code.length, 24_300);
        assertLe(escrow.extension().code.length, 24_300);
        bytes memory terms = abi.encode(escrow.terms());
        bytes memory code = vm.getCode("out/ComputeEscrow.sol/ComputeEscrow.json");
        assertLe(code.length + terms.length + 32, 49_152);
        code = vm.getCode("out/EscrowExtension.sol/EscrowExtension.json");
        assertLe(code.length + terms.length, 49_152);
    }
}
