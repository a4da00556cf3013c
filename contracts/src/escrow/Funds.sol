// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";

import {IEscrowCore} from "../interfaces/IComputeEscrow.sol";
import {Check} from "../libraries/Check.sol";
import {Ledger} from "./Ledger.sol";

/// @title Funds
/// @notice Tokens in and out.
abstract contract Funds is Ledger, IEscrowCore {
    /// @inheritdoc IEscrowCore
    function deposit(uint256 amount) external nonReentrant {
        _deposit(msg.sender, amount);
    }

    /// @inheritdoc IEscrowCore
    function depositWithPermit(uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external nonReentrant {
        try IERC20Permit(address(TOKEN)).permit(msg.sender, address(this), amount, deadline, v, r, s) {}
        catch {
            uint256 allowance = TOKEN.allowance(msg.sender, address(this));
            Check.atLeast(amount, allowance, PermitFailed.selector);
        }
        _deposit(msg.sender, amount);
    }

    /// @inheritdoc IEscrowCore
    function withdraw(address to, uint256 amount) external nonReentrant {
        _send(msg.sender, to, amount);
    }

    /* VIEWS */

    /// @inheritdoc IEscrowCore
    function balanceOf(address account) external view returns (uint256) {
        return _accounts[account].balance;
    }

    /// @inheritdoc IEscrowCore
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    /// @inheritdoc IEscrowCore
    function token() external view returns (address) {
        return address(TOKEN);
    }

    /// @inheritdoc IEscrowCore
    function feeBps() external view returns (uint256) {
        return FEE_BPS;
    }

    /// @inheritdoc IEscrowCore
    function feeRecipient() external view returns (address) {
        return FEE_RECIPIENT;
    }

    /// @inheritdoc IEscrowCore
    function settleWindow() external view returns (uint256) {
        return SETTLE_WINDOW;
    }
}
