// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC5267} from "@openzeppelin/contracts/interfaces/IERC5267.sol";

import {Terms} from "../../src/escrow/Ledger.sol";
import {IComputeEscrow, IEscrowBase} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {newEscrow} from "../support/Shipped.sol";
import {PlainToken} from "../support/Tokens.sol";
import {TypedData} from "../support/TypedData.sol";

contract ConstructorTest is EscrowTest {
    function _deploy(address token_, uint256 feeBps, address recipient, uint256 window)
        private
        returns (IComputeEscrow)
    {
        return newEscrow(vm, Terms(token_, feeBps, recipient, window));
    }

    function test_token_without_code_reverts() public {
        _expect(IEscrowBase.TokenWithoutCode.selector, stranger);
        _deploy(stranger, 0, address(0), SETTLE_WINDOW);
    }

    function test_too_many_decimals_revert() public {
        address token_ = address(new PlainToken(19));
        _expect(IEscrowBase.DecimalsTooMany.selector, 18, 19);
        _deploy(token_, 0, address(0), SETTLE_WINDOW);
    }

    function test_fee_above_the_constant_reverts() public {
        _expect(IEscrowBase.FeeTooHigh.selector, 1000, 1001);
        _deploy(address(token), 1001, feeRecipient, SETTLE_WINDOW);
    }

    function test_fee_for_nobody_reverts() public {
        _expect(IEscrowBase.FeeRecipientMissing.selector, bytes32(uint256(1)));
        _deploy(address(token), 1, address(0), SETTLE_WINDOW);
    }

    function test_window_out_of_bounds_reverts() public {
        uint256[2] memory wrong = [uint256(1 minutes - 1), 30 days + 1];
        for (uint256 i = 0; i < 2; i++) {
            vm.expectRevert(
                abi.encodeWithSelector(IEscrowBase.WindowOutOfBounds.selector, 1 minutes, 30 days, wrong[i])
            );
            _deploy(address(token), 0, address(0), wrong[i]);
        }
    }

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

    function test_contract_fits_the_size_limit() public view {
        assertLe(address(escrow).code.length, 24_576);
        assertLe(escrow.extension().code.length, 24_576);
    }
}
