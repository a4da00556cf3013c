// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {IEscrowCore} from "../interfaces/IComputeEscrow.sol";
import {Check} from "../libraries/Check.sol";
import {Ledger} from "./Ledger.sol";

/// @title Funds
/// @notice Tokens in and out.
abstract contract Funds is Ledger, IEscrowCore {
    using SafeERC20 for IERC20;

    /// @inheritdoc IEscrowCore
    function deposit(uint256 amount) external nonReentrant {
        _deposit(amount);
    }

    /// @inheritdoc IEscrowCore
    function depositWithPermit(uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external nonReentrant {
        try IERC20Permit(address(TOKEN)).permit(msg.sender, address(this), amount, deadline, v, r, s) {}
        catch {
            uint256 allowance = TOKEN.allowance(msg.sender, address(this));
            Check.atLeast(amount, allowance, PermitFailed.selector);
        }
        _deposit(amount);
    }

    function _deposit(uint256 amount) private {
        uint256 before = _holdingsBefore(amount);
        TOKEN.safeTransferFrom(msg.sender, address(this), amount);
        _receive(msg.sender, amount, before);
    }

    /// @inheritdoc IEscrowCore
    function withdraw(address to, uint256 amount) external nonReentrant {
        if (to == address(0) || to == address(this)) revert InvalidRecipient(to);
        if (amount == 0) revert ZeroAmount();

        _debit(msg.sender, amount);

        emit Withdrawn(msg.sender, to, amount);

        TOKEN.safeTransfer(to, amount);
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
